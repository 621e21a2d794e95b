"""How predicted and true segments of one picture meet: shared pixels, IoU and one-to-one pairs.

IoU is that of panoptic quality: what the truth leaves void counts neither as shared nor as missed. A crowd has no
outline of its own, so the share of a segment that lies in it takes the place of its IoU, as in COCO's AP.
Shape legend: H, W size of the picture; N predicted segments; T true segments, crowds included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as rle

from .results import Prediction

__all__ = ["Segment", "crowds", "instances", "overlaps", "pairs_best_first", "segments"]


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment, or one that a model might have made.

    Attributes:
        category_id: in the dataset; isthing: whether that class is of things; score: None where there is none.
        pixels: places in the picture, counted row by row; increasing.
    """

    category_id: int
    isthing: bool
    score: float | None
    pixels: np.ndarray


def segments(prediction: Prediction) -> list[Segment]:
    """Return the segments of a panoptic map, in the order of their records."""
    ids = prediction.segment_ids.ravel()
    wanted = [record["id"] for record in prediction.segments]
    order = np.argsort(ids, kind="stable")
    starts, ends = (np.searchsorted(ids, wanted, side, sorter=order) for side in ("left", "right"))
    return [
        Segment(record["category_id"], record["isthing"], record.get("score"), order[start:end])
        for record, start, end in zip(prediction.segments, starts, ends, strict=True)
    ]


def instances(prediction: Prediction) -> list[Segment]:
    """Return the instances of things in their order, of those with one and the same mask the first; may overlap."""
    first_of_mask: dict[str, Mapping[str, Any]] = {}
    for record in prediction.instances or ():
        first_of_mask.setdefault(record["segmentation"]["counts"], record)
    return [
        Segment(record["category_id"], True, record["score"], np.flatnonzero(rle.decode(record["segmentation"])))
        for record in first_of_mask.values()
    ]


def crowds(truth: Prediction) -> np.ndarray:
    """Return (T,) bool: whether a true segment is a crowd; records may say so by `iscrowd`."""
    return np.array([bool(record.get("iscrowd", False)) for record in truth.segments], dtype=bool)


def overlaps(predicted: Sequence[Segment], true: Sequence[Segment], is_crowd: np.ndarray) -> np.ndarray:
    """Return IoU (N, T) of predicted and true segments; of crowds the share of the predicted segment in them.

    Args:
        predicted: N segments, which may overlap.
        true: T segments, which don't.
        is_crowd: (T,) bool.
    """
    num_pixels = 1 + max((int(segment.pixels[-1]) for segment in (*predicted, *true) if len(segment.pixels)), default=0)
    owners = np.zeros(num_pixels, dtype=np.int64)  # 0 = void
    for number, segment in enumerate(true, start=1):
        owners[segment.pixels] = number
    counts = [np.bincount(owners[segment.pixels], minlength=len(true) + 1)[1:] for segment in predicted]
    shared = np.array(counts, dtype=np.int64).reshape(len(predicted), len(true))
    predicted_areas = shared.sum(axis=1, keepdims=True)
    true_areas = np.array([len(segment.pixels) for segment in true], dtype=np.int64)
    unions = predicted_areas + np.where(is_crowd, 0, true_areas - shared)
    return shared / np.maximum(unions, 1)


def pairs_best_first(values: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs (row, column) of positive values, greatest first, each row and column at most once.

    Of equal values that of the lower row, then of the lower column is first.

    Args:
        values: (N, T), at least 0.
    """
    rows, columns = np.nonzero(values)
    pairs = []
    free_rows, free_columns = np.ones(values.shape[0], dtype=bool), np.ones(values.shape[1], dtype=bool)
    for place in np.argsort(-values[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    return pairs
