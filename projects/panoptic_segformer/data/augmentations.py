"""From a config to the augmentations of pictures and their segments.

Reference: Panoptic SegFormer, section 4.1 (augmentation of DETR). Shape legend: H, W picture size.
"""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from torchvision.transforms import v2

__all__ = ["ColorJitter", "build_augmentations"]

# Long side that bounds the resize before the crop, pixels (released configs, `crop_resize` policy).
_CROP_MAX_SIZE = 4200
# Names that MaskFormer has for its panoptic mappers, the first one for DETR's. They say what INPUT.CROP means.
_CROP_THEN_RESIZE = "detr_panoptic"
_RESIZE_THEN_CROP = "mask_former_panoptic"
# Share of the pictures that the first of them crops.
_CROP_PROB = 0.5
# What pictures are filled up with, of [0, 255], and the segment id there.
_PADDING = 128
_VOID = 0


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Return the augmentations of a config: in training crop, resize, flip and crop to size, else the resize alone.

    INPUT.CROP_RESIZE crops before the resize, INPUT.CROP after it (as in Detectron2's Panoptic-DeepLab). Where the
    config names one of MaskFormer's mappers as INPUT.DATASET_MAPPER_NAME, that mapper's meaning holds: INPUT.CROP is
    the only crop, before the resize for "detr_panoptic" and after it for "mask_former_panoptic".

    Raises: ValueError: if the config names a mapper that makes no panoptic targets, or a limit of classes for crops.
    """
    augmentations = detection_utils.build_augmentation(cfg, is_train)
    if not is_train:
        return augmentations
    node, mapper = cfg.INPUT, _mapper_name(cfg)
    crop = [T.RandomCrop(node.CROP.TYPE, node.CROP.SIZE)] if node.CROP.ENABLED else []
    if mapper == _CROP_THEN_RESIZE:
        return [*(_before_resize(cfg, step, _CROP_PROB) for step in crop), *augmentations]
    if mapper == _RESIZE_THEN_CROP:
        return [*augmentations, *crop, *_color_and_padding(cfg)]
    first = T.RandomCrop("absolute_range", (node.CROP_RESIZE.CROP_MIN, node.CROP_RESIZE.CROP_MAX))
    prob = node.CROP_RESIZE.PROB
    return [*([_before_resize(cfg, first, prob)] if prob > 0 else []), *augmentations, *crop]


class ColorJitter(T.Augmentation):
    """Brightness, contrast, saturation and hue, each changed in every second picture.

    Reference: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016. Brightness is multiplied here where theirs
    adds up to 32 of 255.
    """

    def __init__(self, image_format: str) -> None:
        """Keep the order of the channels, "RGB" or "BGR"."""
        super().__init__()
        self.image_format = image_format
        changes = ({"brightness": 32 / 255}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 18 / 360})
        self.jitter = v2.Compose([v2.RandomApply([v2.ColorJitter(**change)], p=0.5) for change in changes])

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the change of an image (H, W, 3) uint8; segments keep their ids."""
        del image
        return T.ColorTransform(self._change)

    def _change(self, image: np.ndarray) -> np.ndarray:
        step = -1 if self.image_format == "BGR" else 1
        channels_first = torch.from_numpy(np.ascontiguousarray(image[..., ::step].transpose(2, 0, 1)))
        return self.jitter(channels_first).numpy().transpose(1, 2, 0)[..., ::step]


def _before_resize(cfg: CfgNode, crop: T.RandomCrop, prob: float) -> T.RandomApply:
    """Return a crop, and the resize before it, for a share `prob` of the pictures."""
    resize = T.ResizeShortestEdge(cfg.INPUT.CROP_RESIZE.SHORT_SIDES, _CROP_MAX_SIZE, "choice")
    return T.RandomApply(T.AugmentationList([resize, crop]), prob)


def _color_and_padding(cfg: CfgNode) -> list[T.Augmentation]:
    """Return what the second of MaskFormer's mappers does behind the crop."""
    augmentations: list[T.Augmentation] = [ColorJitter(cfg.INPUT.FORMAT)] if cfg.INPUT.COLOR_AUG_SSD else []
    side = cfg.INPUT.SIZE_DIVISIBILITY
    if side > 0:
        augmentations.append(T.FixedSizeCrop((side, side), pad=True, pad_value=_PADDING, seg_pad_value=_VOID))
    return augmentations


def _mapper_name(cfg: CfgNode) -> str:
    """Return the mapper of MaskFormer that a config names; "" where there is none."""
    name = cfg.INPUT.get("DATASET_MAPPER_NAME", "")
    if name not in ("", _CROP_THEN_RESIZE, _RESIZE_THEN_CROP):
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME is {name!r}, which makes no panoptic targets: set it to "
            f"{_CROP_THEN_RESIZE!r}, {_RESIZE_THEN_CROP!r}, or '' to let INPUT.CROP_RESIZE and INPUT.CROP both count"
        )
    if name == _RESIZE_THEN_CROP and cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA < 1:
        raise ValueError(
            f"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA is {cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA}: panoptic crops are "
            "drawn without regard to classes, set it to 1.0"
        )
    return name
