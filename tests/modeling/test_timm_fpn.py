"""The feature pyramid on a timm backbone."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import FPN

from panoptic_segformer.config import add_shared_config
from panoptic_segformer.modeling.fpn import build_timm_fpn_backbone


def make_config(strides, in_features=("res2", "res3", "res4", "res5")):
    cfg = get_cfg()
    add_shared_config(cfg)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = build_timm_fpn_backbone.__name__
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    cfg.MODEL.TIMM.STRIDES = strides
    cfg.MODEL.FPN.IN_FEATURES = list(in_features)
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


@torch.no_grad()
def test_pyramid_has_five_levels():
    backbone = build_backbone(make_config([4, 8, 16, 32])).eval()
    assert isinstance(backbone, FPN)
    assert backbone.size_divisibility == 32
    features = backbone(torch.rand(1, 3, 64, 96))
    assert {name: tuple(feature.shape) for name, feature in features.items()} == {
        f"p{level}": (1, 16, -(-64 // 2**level), -(-96 // 2**level)) for level in range(2, 7)
    }


def test_missing_features_are_named():
    with pytest.raises(ValueError, match=r"IN_FEATURES is .*'res2'.* backbone gives \['res3', 'res4', 'res5'\]"):
        build_backbone(make_config([8, 16, 32]))


@pytest.mark.parametrize("in_features", [(), ("res2", "res3", "res4"), ("res3", "res5"), ("res5", "res4")])
def test_features_that_make_no_pyramid_are_refused(in_features):
    """Detectron2 ends in an assertion, or with a list index once it is run."""
    with pytest.raises(ValueError, match=r"IN_FEATURES is .*: name features there whose strides double up to 32"):
        build_backbone(make_config([4, 8, 16, 32], in_features))


@torch.no_grad()
def test_pyramid_may_start_at_a_coarser_level():
    backbone = build_backbone(make_config([8, 16, 32], ("res3", "res4", "res5"))).eval()
    assert list(backbone(torch.rand(1, 3, 64, 96))) == ["p3", "p4", "p5", "p6"]
