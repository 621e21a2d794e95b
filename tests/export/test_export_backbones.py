"""Backbones of timm keep their free sizes; those that fill pictures up are refused."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from panoptic_segformer.export.exporting import ExportOptions, export_model
from panoptic_segformer.export.program import TRACED_SIZE, trace
from panoptic_segformer.modeling.backbone import TimmBackbone

STRIDES = [8, 16, 32]
# Odd, even, multiples of 4 and of 32.
SIZES = [(65, 97), (96, 128), (98, 131), (100, 66)]


@pytest.mark.slow
@torch.no_grad()
def test_traced_backbone_takes_all_sizes():
    torch.manual_seed(0)
    backbone = TimmBackbone("tf_mobilenetv3_small_minimal_100", STRIDES).eval()  # TensorFlow's padding
    program = trace(backbone, torch.zeros(1, 3, *TRACED_SIZE)).module()
    for size in SIZES:
        images = torch.randn(1, 3, *size)
        features, expected = program(images), backbone(images)
        assert features.keys() == expected.keys()
        for key, truth in expected.items():
            assert truth.abs().max() > 1e-3
            torch.testing.assert_close(features[key], truth, rtol=1e-5, atol=1e-5)


def test_backbone_that_fills_pictures_up_is_refused(tiny_config, tmp_path):
    words = ["MODEL.TIMM.NAME", "convnext_atto", "MODEL.TIMM.WEIGHTS", ""]
    cfg = tiny_config(*words)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "weights.pth")
    output = tmp_path / "folder/model.pt2"
    with pytest.raises(ValueError, match="fills pictures up to multiples of 32 pixels, which can't be exported"):
        export_model(cfg, str(tmp_path / "weights.pth"), output, ExportOptions("torch"))
    assert not output.parent.exists()
