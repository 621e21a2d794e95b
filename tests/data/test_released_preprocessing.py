"""Test-time resizing against the released code's (OpenCV there, Pillow here)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from panoptic_segformer import load_config
from panoptic_segformer.data.augmentations import build_augmentations

CORNER = 64


@pytest.mark.parametrize("index", [0, 1, 2])
def test_size_is_equal_and_pixels_are_within_rounding(shared_dir, config_dir, index):
    stored = np.load(shared_dir / "golden/preprocess.npz")
    cfg = load_config(config_dir / "coco/panoptic_segformer_r50_2x.yaml")
    augmented = T.AugInput(np.ascontiguousarray(stored[f"{index}.in_u8_bgr"][..., ::-1]))
    T.AugmentationList(build_augmentations(cfg, is_train=False))(augmented)
    image = augmented.image
    assert image.shape == tuple(stored[f"{index}.img_shape"])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    normalized = (torch.from_numpy(image.transpose(2, 0, 1).copy()) - mean) / std
    for name, corner in (
        ("out_topleft", normalized[:, :CORNER, :CORNER]),
        ("out_bottomright", normalized[:, -CORNER:, -CORNER:]),
    ):
        levels = (corner - torch.from_numpy(stored[f"{index}.{name}"])).abs() * std  # in units of 0 to 255
        # Both interpolate linearly between the same pixels, but round intermediate results differently.
        assert levels.mean() < 0.5
        assert levels.max() <= 1.01
