"""Detectron2's feature pyramid (FPN) on the backbones of timm."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

from .backbone import build_timm_backbone

__all__ = ["build_timm_fpn_backbone"]


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build MODEL.FPN on the backbone of MODEL.TIMM, as Detectron2 builds it on its ResNet: p2 to p5, and p6 for RPN.

    Raises: ValueError: if the backbone does not give MODEL.FPN.IN_FEATURES.
    """
    node = cfg.MODEL.FPN
    bottom_up = build_timm_backbone(cfg, input_shape)
    given = list(bottom_up.output_shape())
    if not set(node.IN_FEATURES) <= set(given):
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {list(node.IN_FEATURES)}, but the backbone gives {given}: let it give others by "
            "MODEL.TIMM.STRIDES, [4, 8, 16, 32] for res2 to res5"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=node.IN_FEATURES,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=node.FUSE_TYPE,
    )
