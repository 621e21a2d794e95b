"""Backbones of timm keep their free sizes: with TensorFlow's padding, filled up to multiples of 32, and plain ones."""

from __future__ import annotations

import pytest
import torch

from panoptic_segformer.export.program import TRACED_SIZE, trace
from panoptic_segformer.modeling.backbone import TimmBackbone

STRIDES = [8, 16, 32]
# Of every residue of the padding: odd, even, multiples of 4 and of 32.
SIZES = [(65, 97), (96, 128), (98, 131), (100, 66)]
BACKBONES = {
    "tf_mobilenetv3_small_minimal_100": 1,  # TensorFlow's padding
    "convnext_atto": 32,  # leaves out what is no multiple of its patches
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "multiple"), BACKBONES.items())
@torch.no_grad()
def test_traced_backbone_takes_all_sizes(name, multiple):
    torch.manual_seed(0)
    backbone = TimmBackbone(name, STRIDES).eval()
    assert backbone.side_multiple == multiple
    program = trace(backbone, torch.zeros(1, 3, *TRACED_SIZE)).module()
    for size in SIZES:
        images = torch.randn(1, 3, *size)
        features, expected = program(images), backbone(images)
        assert features.keys() == expected.keys()
        for key, truth in expected.items():
            assert truth.abs().max() > 1e-3
            torch.testing.assert_close(features[key], truth, rtol=1e-5, atol=1e-5)
