"""Areas and boxes of the segments of an id map, counted in one pass however many segments there are.

Shape legend: H, W picture size, R number of horizontal runs of one id.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .reading import VOID

__all__ = ["Extent", "measure_segments"]


class Extent(NamedTuple):
    """Number of pixels of a segment, and its box as COCO writes it: left, top, width, height in pixels."""

    area: int
    box: list[int]


def measure_segments(ids: np.ndarray) -> dict[int, Extent]:
    """Return the extent of every segment of an id map (H, W) by its id, in increasing order, without void."""
    if not ids.size:
        return {}
    is_start = np.ones(ids.shape, dtype=bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=is_start[:, 1:])
    starts = np.flatnonzero(is_start)  # R
    lengths = np.diff(starts, append=ids.size)
    rows, lefts = np.divmod(starts, ids.shape[1])
    values, of_run = np.unique(ids[is_start], return_inverse=True)
    areas = np.bincount(of_run, weights=lengths).astype(np.int64)  # exact below 2^53 pixels
    left, top = (np.full(len(values), max(ids.shape)) for _ in range(2))
    right, bottom = (np.zeros(len(values), dtype=np.int64) for _ in range(2))
    np.minimum.at(left, of_run, lefts)
    np.minimum.at(top, of_run, rows)
    np.maximum.at(right, of_run, lefts + lengths)
    np.maximum.at(bottom, of_run, rows + 1)
    boxes = np.stack([left, top, right - left, bottom - top], axis=1)
    return {
        value: Extent(area, box)
        for value, area, box in zip(values.tolist(), areas.tolist(), boxes.tolist(), strict=True)
        if value != VOID
    }
