"""Make one id map of regions that overlap: every pixel gets one segment.

The order is always the same: stuff lies below, crowds on it, things on top, and among each the smaller ones on the
larger ones; of two equally large ones the later listed is on top. Stuff of one class is one segment.
Shape legend: H, W picture size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from .output import Truth

__all__ = ["Region", "paint"]

_STUFF, _CROWD, _THING = range(3)  # from below


class Region(NamedTuple):
    """Some pixels of one class: mask (H, W) bool."""

    mask: np.ndarray
    category_id: int
    isthing: bool
    iscrowd: bool = False


class _Packed(NamedTuple):
    """A region as run lengths: hundreds of them fit into memory, however large the picture is."""

    runs: dict[str, Any]
    category_id: int
    layer: int


def paint(regions: Iterable[Region], size: tuple[int, int]) -> Truth:
    """Return the truth that regions give together.

    Args:
        regions: in the order in which they are listed; they need not be in memory together.
        size: (height, width) of the picture.
    """
    ordered = sorted(_packed(regions), key=lambda region: (region.layer, -int(rle.area(region.runs))))
    ids, segments = np.zeros(size, dtype=np.int32), {}
    for number, region in enumerate(ordered, start=1):
        ids[rle.decode(region.runs).astype(bool)] = number
        segments[number] = region.category_id, region.layer == _CROWD
    return Truth(ids, segments)


def _packed(regions: Iterable[Region]) -> list[_Packed]:
    """Return the regions, those of one stuff class united."""
    things, stuff = [], {}
    for mask, category_id, isthing, iscrowd in regions:
        runs = rle.encode(np.asfortranarray(mask))
        if isthing:
            things.append(_Packed(runs, category_id, _CROWD if iscrowd else _THING))
            continue
        if category_id in stuff:
            runs = rle.merge([stuff[category_id].runs, runs])
        stuff[category_id] = _Packed(runs, category_id, _STUFF)
    return [*stuff.values(), *things]
