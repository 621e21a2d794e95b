"""FLOPs of all models of this distribution: each can be traced, segments and instances included."""

from __future__ import annotations

import pytest
import torch

from panoptic_segformer import load_config
from panoptic_segformer.analysis import build_for_sizing, count_flops
from tiny import forget_scenes

# What lets random weights find something.
SURE_OF_ANYTHING = {
    "panoptic_segformer": [],
    "panoptic_fcn": [],
    "maskformer": ["MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.0"],
    "detr_panoptic": ["MODEL.DETR.TEST.SCORE_THRESHOLD", "0.0"],
    "panoptic_fpn": ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"],
    "panoptic_deeplab": [],
}


@pytest.mark.parametrize("name", SURE_OF_ANYTHING)
def test_every_model_can_be_counted(name, config_dir, scenes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))
    try:
        cfg = load_config(config_dir / f"synthetic/{name}_lite0.yaml", ["MODEL.DEVICE", "cpu", *SURE_OF_ANYTHING[name]])
        torch.manual_seed(0)
        flops = count_flops(build_for_sizing(cfg, "cpu"), (64, 96))
    finally:
        forget_scenes()
    assert 1e8 < flops.total < 1e10
