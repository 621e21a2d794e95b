"""The feature pyramid: levels p2 to p7 over any backbone with strides 4 to 32."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from panoptic_segformer.checks import check_backbone
from panoptic_segformer.modeling.fpn import check_pyramid
from panoptic_segformer.modeling.frozen_norm import fold_frozen_norms

__all__ = ["build_pyramid"]


def build_pyramid(cfg: CfgNode) -> Backbone:
    """Return the pyramid of MODEL.FPN over the backbone of MODEL.BACKBONE.

    Unlike in Detectron2's detectors, p6 and p7 are made of p5, not of the backbone's last feature.

    Raises: ValueError: if there is no such backbone, or it lacks a feature that the pyramid needs, p5's above all.
    """
    check_backbone(cfg)
    bottom_up = build_backbone(cfg)
    fold_frozen_norms(bottom_up)
    node = cfg.MODEL.FPN
    check_pyramid(node, bottom_up)
    channels = node.OUT_CHANNELS
    top = LastLevelP6P7(channels, channels, in_feature="p5")
    return FPN(bottom_up, node.IN_FEATURES, channels, norm=node.NORM, top_block=top, fuse_type=node.FUSE_TYPE)
