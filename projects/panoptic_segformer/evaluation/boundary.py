"""Boundary IoU of all segments of a picture at once: how well outlines agree, whatever the size of what they enclose.

The boundary of a segment are its pixels within 2% of the picture's diagonal of another segment, of void or of the
picture's edge. Boundary PQ takes the smaller of mask IoU and boundary IoU in the place of mask IoU.
Reference: Cheng et al., "Boundary IoU", CVPR 2021; numbers are those of the authors' boundary_iou_api.
Shape legend: H, W size of a picture; T true and P predicted segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..data.reading import VOID
from .quality import intersection_over_union, joint_histogram

__all__ = ["boundary_ious", "interior"]

# Width of a boundary as a share of the picture's diagonal.
DILATION_RATIO = 0.02
# Stands for pixels of any segment that are not on its boundary; no segment has it.
INTERIOR_ID = -1


def boundary_ious(
    true_map: np.ndarray, predicted_map: np.ndarray, true_ids: Sequence[int], predicted_ids: Sequence[int]
) -> np.ndarray:
    """Return (T, P) float64, the IoU of the boundaries of segments; pixels that the truth leaves void don't count.

    Args:
        true_map: (H, W) integer map of ids.
        predicted_map: the same of the prediction.
        true_ids: T different ids, without 0.
        predicted_ids: P likewise.

    Raises: ValueError: as `joint_histogram`.
    """
    distance = max(1, round(DILATION_RATIO * math.hypot(*true_map.shape)))
    maps = [np.where(interior(ids, distance) & (ids != VOID), INTERIOR_ID, ids) for ids in (true_map, predicted_map)]
    shared = joint_histogram(*maps, [*true_ids, INTERIOR_ID], [*predicted_ids, INTERIOR_ID])
    return intersection_over_union(shared)[:-1, :-1]


def interior(ids: np.ndarray, distance: int) -> np.ndarray:
    """Return (H, W) bool: whether the square of pixels within `distance` lies in the picture and has one id.

    Args:
        ids: (H, W).
        distance: at least 1, of rows and of columns.
    """
    height, width = ids.shape
    side = 2 * distance
    inside = np.zeros(ids.shape, dtype=bool)
    if height <= side or width <= side:
        return inside
    # A square has one id if all blocks of 2 x 2 pixels in it have; sums from the corner count those that have not.
    differs_below, differs_right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    is_mixed = differs_below[:, 1:] | differs_below[:, :-1] | differs_right[1:] | differs_right[:-1]
    sums = np.zeros(ids.shape, dtype=np.int32)
    np.cumsum(np.cumsum(is_mixed, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
    mixed = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    inside[distance : height - distance, distance : width - distance] = mixed == 0
    return inside
