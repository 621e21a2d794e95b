"""Detectron2's annotated pictures in the form that matching and losses take.

Shape legend: H, W picture size, T segments of one picture, C coordinates of a location.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert

from ..modeling.location_decoder import Location

__all__ = ["PictureTargets", "SegmentTargets", "resize_masks"]


@dataclass(frozen=True)
class SegmentTargets:
    """Truth of some segments of one picture; everything is relative to its own area, without padding.

    Attributes:
        classes: (T,) int64 in [0, K).
        masks: (T, H, W) bool.
        locations: (T, C) in [0, 1], see `Location`; None where nothing learns them.
        box_scale: (4,) pixels (W, H, W, H) per unit of a box.
    """

    classes: Tensor
    masks: Tensor
    locations: Tensor | None
    box_scale: Tensor

    @classmethod
    def from_instances(cls, instances: Instances, like: Tensor, location: Location | None) -> SegmentTargets:
        """Convert one half of a training example; see `PictureTargets.from_instances`."""
        height, width = instances.image_size
        scale = like.new_tensor([width, height, width, height])
        masks = instances.gt_masks.tensor.to(like.device)
        if location is None:
            locations = None
        elif location is Location.CENTER:
            locations = _centers_of_mass(masks).to(scale)
        else:  # Stuff comes without boxes.
            boxes = instances.gt_boxes if instances.has("gt_boxes") else instances.gt_masks.get_bounding_boxes()
            locations = box_convert(boxes.tensor.to(scale), "xyxy", "cxcywh") / scale
        return cls(instances.gt_classes.to(like.device), masks, locations, scale)


@dataclass(frozen=True)
class PictureTargets:
    """Truth of one picture.

    Attributes:
        things: things, of classes in [0, K_th).
        stuff: stuff, of classes in [0, K_st), each at most once.
    """

    things: SegmentTargets
    stuff: SegmentTargets

    @classmethod
    def from_instances(
        cls,
        things: Instances,
        stuff: Instances,
        like: Tensor,
        location: Location = Location.BOX,
        with_stuff_locations: bool = False,
    ) -> PictureTargets:
        """Convert a training example of PanopticDatasetMapper.

        Args:
            things: the example's `instances`.
            stuff: the example's `stuff`.
            like: a tensor of the device and floating-point type that the locations shall have.
            location: what a location is.
            with_stuff_locations: whether stuff has locations, which `joined` needs.
        """
        return cls(
            SegmentTargets.from_instances(things, like, location),
            SegmentTargets.from_instances(stuff, like, location if with_stuff_locations else None),
        )

    def joined(self, num_thing_classes: int) -> SegmentTargets:
        """Return things and stuff as one set, with the classes of stuff behind those of things."""
        return SegmentTargets(
            torch.cat([self.things.classes, self.stuff.classes + num_thing_classes]),
            torch.cat([self.things.masks, self.stuff.masks]),
            torch.cat([self.things.locations, self.stuff.locations]),
            self.things.box_scale,
        )


def resize_masks(masks: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return bool masks (N, H, W) resized bilinearly to (N, *size), values in [0, 1]."""
    if not len(masks):
        return masks.new_zeros((0, *size), dtype=dtype)
    return F.interpolate(masks[:, None].to(dtype), size, mode="bilinear", align_corners=False)[:, 0]


def _centers_of_mass(masks: Tensor) -> Tensor:
    """Return the mean (x, y) of the pixels of bool masks (T, H, W) in [0, 1]: (T, 2); 0 for an empty mask."""
    area = masks.sum((1, 2)).clamp(min=1)
    centers = []
    for along in (1, 2):  # Sums over rows leave columns, and the other way round.
        counts = masks.sum(along)
        places = (torch.arange(counts.shape[1], device=masks.device) + 0.5) / counts.shape[1]
        centers.append((counts * places).sum(1) / area)
    return torch.stack(centers, dim=1)
