"""Which segments of two predictions of one picture are the same one.

The rule is that of panoptic quality: equal class, and an IoU above one half (Kirillov et al. 2019, section 4.1).
Segments of one prediction do not overlap, so a segment has at most one partner.
Shape legend: H, W size of the picture; N, M segments of the two predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.quality import joint_histogram
from ..visualization.draw import index_of_ids
from .results import Prediction

__all__ = ["VOID_CATEGORY", "NumberedSegments", "same_segments"]

# Datasets count their categories from 0 or 1.
VOID_CATEGORY = -1


@dataclass(frozen=True)
class NumberedSegments:
    """A prediction whose segments are numbered in their order; number 0 is void.

    Attributes:
        numbers: (H, W) intp in [0, N]; 0 also where an id is not listed.
        ids: N segment ids; number n has the id n - 1.
        category_ids: (1 + N,) int64, by number.
        isthing: (1 + N,) bool, by number.
    """

    numbers: np.ndarray
    ids: list[int]
    category_ids: np.ndarray
    isthing: np.ndarray

    @classmethod
    def of(cls, prediction: Prediction) -> NumberedSegments:
        """Return the numbered form of a prediction."""
        ids = [int(segment["id"]) for segment in prediction.segments]
        indices = index_of_ids(prediction.segment_ids, ids).astype(np.intp)
        return cls(
            np.where(indices == len(ids), 0, indices + 1),
            ids,
            np.array([VOID_CATEGORY, *(segment["category_id"] for segment in prediction.segments)], np.int64),
            np.array([False, *(segment["isthing"] for segment in prediction.segments)], bool),
        )


def same_segments(first: NumberedSegments, second: NumberedSegments) -> np.ndarray:
    """Return (1 + N, 1 + M) bool: whether number n of the first is the same segment as number m of the second.

    Raises: ValueError: if the two are not of one size (states both).
    """
    common = joint_histogram(
        first.numbers, second.numbers, range(1, len(first.category_ids)), range(1, len(second.category_ids))
    )
    union = common.sum(axis=1, keepdims=True) + common.sum(axis=0, keepdims=True) - common
    return (2 * common > union) & (first.category_ids[:, None] == second.category_ids)
