"""Make one id map of regions that overlap: every pixel gets one segment.

The order is always the same: stuff lies below, crowds on it, things on top, and among each the smaller ones on the
larger ones; of two equally large ones the later listed is on top. Stuff of one class is one segment.
Shape legend: H, W picture size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from .output import Truth

__all__ = ["Region", "paint", "segmentation_mask"]


class Region(NamedTuple):
    """Some pixels of one class: mask (H, W) bool."""

    mask: np.ndarray
    category_id: int
    isthing: bool
    iscrowd: bool = False

    @property
    def layer(self) -> int:
        """Place in the order of painting."""
        return 0 if not self.isthing else 1 if self.iscrowd else 2


def paint(regions: Iterable[Region], size: tuple[int, int]) -> Truth:
    """Return the truth that regions give together.

    Args:
        regions: in the order in which they are listed.
        size: (height, width) of the picture.
    """
    ordered = sorted(_with_whole_stuff(regions), key=lambda region: (region.layer, -int(region.mask.sum())))
    ids = np.zeros(size, dtype=np.int32)
    for number, region in enumerate(ordered, start=1):
        ids[region.mask] = number
    segments = {number: (region.category_id, region.iscrowd) for number, region in enumerate(ordered, start=1)}
    return Truth(ids, segments)


def segmentation_mask(segmentation: dict[str, Any] | Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) bool of a segmentation as COCO's instances have it: polygons, or RLE of either kind.

    Args:
        segmentation: the polygons' x, y, x, y, ... in pixels, or {"size", "counts"}.
        size: (height, width) of the picture.
    Raises: ValueError: if it is none of these, or the RLE is of another size.
    """
    is_rle = isinstance(segmentation, dict)
    if is_rle and list(segmentation.get("size", ())) != list(size):
        raise ValueError(f"an RLE has size {segmentation.get('size')}, its picture (height, width) {tuple(size)}")
    try:
        if is_rle and not isinstance(segmentation["counts"], list):
            return rle.decode(segmentation).astype(bool)
        encoded = rle.frPyObjects(segmentation if is_rle else [list(map(float, one)) for one in segmentation], *size)
        return rle.decode(encoded if is_rle else rle.merge(encoded)).astype(bool)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"a segmentation is neither polygons nor RLE ({error}): {str(segmentation)[:60]}") from error


def _with_whole_stuff(regions: Iterable[Region]) -> list[Region]:
    """Return the regions, those of one stuff class united."""
    things, stuff = [], {}
    for region in regions:
        if region.isthing:
            things.append(region)
        elif region.category_id in stuff:
            mask = stuff[region.category_id].mask | region.mask
            stuff[region.category_id] = region._replace(mask=mask)
        else:
            stuff[region.category_id] = region
    return [*stuff.values(), *things]
