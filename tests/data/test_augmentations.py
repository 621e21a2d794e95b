"""What MaskFormer's names of mappers make of a config, and the jitter of colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from maskformer import add_maskformer_config
from panoptic_segformer.data.augmentations import ColorJitter, build_augmentations


@pytest.fixture
def config():
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_maskformer_config(cfg)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = (384, 600)
    return cfg


def names(augmentations) -> list[str]:
    return [type(augmentation).__name__ for augmentation in augmentations]


def test_detr_panoptic_crops_every_second_picture_before_the_resize(config):
    own = build_augmentations(config, is_train=True)
    config.INPUT.DATASET_MAPPER_NAME = "detr_panoptic"
    first, *others = build_augmentations(config, is_train=True)
    assert names(others) == ["ResizeShortestEdge", "RandomFlip"]
    assert first.prob == 0.5
    resize, crop = first.aug.augs
    assert list(resize.short_edge_length) == [400, 500, 600]
    assert (crop.crop_type, tuple(crop.crop_size)) == ("absolute_range", (384, 600))
    # The keys of the project say the same by default, besides INPUT.CROP.
    assert [repr(step) for step in own[0].aug.augs] == [repr(resize), repr(crop)]
    assert names(own) == ["RandomApply", "ResizeShortestEdge", "RandomFlip", "RandomCrop"]


def test_detr_panoptic_without_crop(config):
    config.INPUT.DATASET_MAPPER_NAME = "detr_panoptic"
    config.INPUT.CROP.ENABLED = False
    assert names(build_augmentations(config, is_train=True)) == ["ResizeShortestEdge", "RandomFlip"]


def test_mask_former_panoptic_crops_to_size_and_fills_up(config):
    config.INPUT.DATASET_MAPPER_NAME = "mask_former_panoptic"
    config.INPUT.CROP.TYPE = "absolute"
    config.INPUT.CROP.SIZE = (64, 64)
    config.INPUT.SIZE_DIVISIBILITY = 64
    config.INPUT.COLOR_AUG_SSD = True
    config.INPUT.MIN_SIZE_TRAIN = (48,)
    augmentations = build_augmentations(config, is_train=True)
    assert names(augmentations) == ["ResizeShortestEdge", "RandomFlip", "RandomCrop", "ColorJitter", "FixedSizeCrop"]
    augmented = T.AugInput(np.full((48, 96, 3), 200, np.uint8), sem_seg=np.full((48, 96, 3), 7, np.uint8))
    T.AugmentationList(augmentations)(augmented)
    assert augmented.image.shape == augmented.sem_seg.shape == (64, 64, 3)
    assert (augmented.image[48:] == 128).all()
    assert (augmented.sem_seg[:48] == 7).all()
    assert (augmented.sem_seg[48:] == 0).all()


def test_inference_only_resizes(config):
    config.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"  # says nothing about inference
    assert names(build_augmentations(config, is_train=False)) == ["ResizeShortestEdge"]


@pytest.mark.parametrize("name", ["mask_former_semantic", "mask_former_instance", "coco_instance_lsj"])
def test_mappers_without_panoptic_targets_are_refused(config, name):
    config.INPUT.DATASET_MAPPER_NAME = name
    with pytest.raises(ValueError, match=f"DATASET_MAPPER_NAME is '{name}', which makes no panoptic targets"):
        build_augmentations(config, is_train=True)


def test_crops_that_limit_a_class_are_refused(config):
    config.INPUT.DATASET_MAPPER_NAME = "mask_former_panoptic"
    config.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    with pytest.raises(ValueError, match=r"SINGLE_CATEGORY_MAX_AREA is 0.75.*set it to 1.0"):
        build_augmentations(config, is_train=True)


def test_color_jitter_does_not_depend_on_the_order_of_channels():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    changed = 0
    for seed in range(8):
        torch.manual_seed(seed)
        rgb = ColorJitter("RGB").get_transform(image).apply_image(image)
        torch.manual_seed(seed)
        bgr = ColorJitter("BGR").get_transform(image).apply_image(image[..., ::-1])
        assert rgb.dtype == np.uint8
        assert rgb.shape == image.shape
        assert (rgb == bgr[..., ::-1]).all()
        changed += (rgb != image).any()
    assert 4 <= changed <= 8
