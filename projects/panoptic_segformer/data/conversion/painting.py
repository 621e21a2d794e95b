"""Make one id map of regions that overlap: every pixel gets one segment.

The order is always the same: stuff lies below, crowds on it, things on top, and among each the smaller ones on the
larger ones; of two equally large ones the later listed is on top. Stuff of one class is one segment.
Shape legend: H, W picture size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .output import Truth

__all__ = ["Region", "paint"]


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
