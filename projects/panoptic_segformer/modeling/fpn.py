"""Detectron2's feature pyramid (FPN) on the backbones of timm, and what a pyramid needs of any backbone."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

from .backbone import build_timm_backbone

__all__ = ["build_timm_fpn_backbone", "check_pyramid"]

# Stride of p5, which all coarser levels are made of.
LAST_STRIDE = 32


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build MODEL.FPN on the backbone of MODEL.TIMM, as Detectron2 builds it on its ResNet: p2 to p5, and p6 for RPN.

    Raises: ValueError: if the backbone does not give MODEL.FPN.IN_FEATURES, or these make no p5.
    """
    node = cfg.MODEL.FPN
    bottom_up = build_timm_backbone(cfg, input_shape)
    check_pyramid(node, bottom_up)
    return FPN(
        bottom_up=bottom_up,
        in_features=node.IN_FEATURES,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=node.FUSE_TYPE,
    )


def check_pyramid(node: CfgNode, bottom_up: Backbone) -> None:
    """Raise ValueError if a backbone does not give MODEL.FPN.IN_FEATURES, or their strides don't double up to 32."""
    shapes, names = bottom_up.output_shape(), list(node.IN_FEATURES)
    strides = [shapes[name].stride for name in names if name in shapes]
    if not names or strides != [LAST_STRIDE >> steps for steps in reversed(range(len(names)))]:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {names}, but the backbone gives {list(shapes)}: name features there whose "
            "strides double up to 32, such as res2 to res5, and let the backbone give them by "
            "MODEL.RESNETS.OUT_FEATURES or MODEL.TIMM.STRIDES"
        )
