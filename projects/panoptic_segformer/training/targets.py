"""Detectron2's annotated pictures in the form that matching and losses take.

Shape legend: H, W picture size, T thing targets, U stuff targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert

__all__ = ["PictureTargets", "resize_masks"]


@dataclass(frozen=True)
class PictureTargets:
    """Truth of one picture; everything is relative to its own area, without padding.

    Attributes:
        thing_classes: (T,) int64 in [0, K_th).
        thing_boxes: (T, 4) (cx, cy, w, h) in [0, 1].
        thing_masks: (T, H, W) bool.
        stuff_classes: (U,) int64 in [0, K_st), each at most once.
        stuff_masks: (U, H, W) bool.
        box_scale: (4,) pixels (W, H, W, H) per unit of a box.
    """

    thing_classes: Tensor
    thing_boxes: Tensor
    thing_masks: Tensor
    stuff_classes: Tensor
    stuff_masks: Tensor
    box_scale: Tensor

    @classmethod
    def from_instances(cls, things: Instances, stuff: Instances, like: Tensor) -> PictureTargets:
        """Convert a training example of PanopticDatasetMapper.

        Args:
            things: the example's `instances`.
            stuff: the example's `stuff`.
            like: a tensor of the device and floating-point type that the boxes shall have.
        """
        device = like.device
        height, width = things.image_size
        scale = like.new_tensor([width, height, width, height])
        boxes = box_convert(things.gt_boxes.tensor.to(like), "xyxy", "cxcywh")
        return cls(
            thing_classes=things.gt_classes.to(device),
            thing_boxes=boxes / scale,
            thing_masks=things.gt_masks.tensor.to(device),
            stuff_classes=stuff.gt_classes.to(device),
            stuff_masks=stuff.gt_masks.tensor.to(device),
            box_scale=scale,
        )


def resize_masks(masks: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return bool masks (N, H, W) resized bilinearly to (N, *size), values in [0, 1]."""
    if not len(masks):
        return masks.new_zeros((0, *size), dtype=dtype)
    return F.interpolate(masks[:, None].to(dtype), size, mode="bilinear", align_corners=False)[:, 0]
