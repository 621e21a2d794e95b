"""Panoptic quality counted picture by picture from two maps of segment ids: no files, and counts that add up.

The rules are panopticapi's: void and crowds are neither right nor wrong. All areas are counted in the maps, where
panopticapi believes the json of the truth; if that is correct, the counts are equal.
Reference: Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4.
Shape legend: H, W size of a picture; T true and P predicted segments of it; K classes; 3 sizes of segments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.reading import VOID

__all__ = [
    "MEASURES",
    "SIZES",
    "Overlap",
    "class_indices",
    "class_qualities",
    "count_matches",
    "group_qualities",
    "joint_histogram",
    "no_counts",
]

MEASURES = ("PQ", "SQ", "RQ")
# COCO's sizes by area: below the first limit, below the second, and the rest.
SIZES = ("small", "medium", "large")
SIZE_LIMITS = (32**2, 96**2)
# Ending of a result's key, value of a category's `isthing`.
GROUPS = (("", None), ("_th", True), ("_st", False))
SHOWN_IDS = 8


def class_indices(categories: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return the place of each category id in counts."""
    return {category["id"]: index for index, category in enumerate(categories)}


def no_counts(num_classes: int) -> np.ndarray:
    """Return counts of nothing, (3, K, 4) float64: by size and class the sum of IoU, found, false and missed ones.

    Counts of several pictures or processes are added. A found or missed segment has the size of the true one, a false
    one its own, so that the counts of all sizes add up to those of all segments.
    """
    return np.zeros((len(SIZES), num_classes, 4))


def joint_histogram(
    first: np.ndarray, second: np.ndarray, first_ids: Sequence[int], second_ids: Sequence[int]
) -> np.ndarray:
    """Return (1 + N, 1 + M) int64, the pixels of each pair of segments; number 0 is void, then come the ids in order.

    Args:
        first: (H, W) integer map of ids.
        second: the same of another segmentation.
        first_ids: N different ids, without 0.
        second_ids: M likewise.

    Raises: ValueError: if the sizes differ (states both), or a map has an id that is not listed (names it).
    """
    if first.shape != second.shape:
        raise ValueError(
            f"two segmentations of one picture have sizes {first.shape} and {second.shape} (height, width): both must "
            "have that of the picture"
        )
    # Pixels come in runs of equal ids: what follows handles runs, of which there are far fewer.
    rows, columns = first.ravel(), second.ravel()
    is_start = np.ones(rows.size, dtype=bool)
    np.not_equal(rows[1:], rows[:-1], out=is_start[1:])
    is_start[1:] |= columns[1:] != columns[:-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=rows.size)
    shape = 1 + len(first_ids), 1 + len(second_ids)
    pairs = _numbers(rows[starts], first_ids) * shape[1] + _numbers(columns[starts], second_ids)
    # Weights are float64, which hold the pixels of any picture exactly.
    return np.bincount(pairs, lengths, shape[0] * shape[1]).astype(np.int64).reshape(shape)


def _numbers(ids: np.ndarray, known: Sequence[int]) -> np.ndarray:
    """Return 0 for void and 1 + the position in `known` for other ids."""
    listed = np.array([VOID, *known], dtype=np.int64)
    order = np.argsort(listed)
    ordered = listed[order]
    places = np.searchsorted(ordered, ids).clip(max=len(listed) - 1)
    if (unknown := ordered[places] != ids).any():
        names = ", ".join(map(str, np.unique(ids[unknown])[:SHOWN_IDS].tolist()))
        raise ValueError(
            f"a map has pixels of the ids {names}, which its records do not list: give it the records it was made with"
        )
    return order[places]


@dataclass(frozen=True)
class Overlap:
    """How the true and the predicted segments of one picture meet.

    Attributes:
        shared: (1 + T, 1 + P) int64, pixels; number 0 is void.
        true_classes, predicted_classes: (T,), (P,) intp, in [0, K).
        is_crowd: (T,) bool.
    """

    shared: np.ndarray
    true_classes: np.ndarray
    predicted_classes: np.ndarray
    is_crowd: np.ndarray

    @classmethod
    def of(
        cls,
        true_map: np.ndarray,
        true_segments: Sequence[Mapping[str, Any]],
        predicted_map: np.ndarray,
        predicted_segments: Sequence[Mapping[str, Any]],
        classes: Mapping[int, int],
    ) -> Overlap:
        """Return how two maps (H, W) of ids meet.

        Args:
            true_map: (H, W) integers, 0 = void.
            true_segments: T records with id, category_id and, for crowds, iscrowd.
            predicted_map: (H, W) integers, 0 = void.
            predicted_segments: P records with id and category_id.
            classes: what `class_indices` returned.

        Raises: ValueError: if the sizes differ, a map has ids that its records do not list, or a record of the
            prediction has no pixels or a category that `classes` lacks.
        """
        true_ids, predicted_ids = ([segment["id"] for segment in some] for some in (true_segments, predicted_segments))
        shared = joint_histogram(true_map, predicted_map, true_ids, predicted_ids)
        if empty := [id_ for id_, area in zip(predicted_ids, shared.sum(axis=0)[1:], strict=True) if not area]:
            raise ValueError(
                f"the prediction lists segments without pixels, ids {', '.join(map(str, empty[:SHOWN_IDS]))}: "
                "drop them from its records"
            )
        for segment in (*true_segments, *predicted_segments):
            if segment["category_id"] not in classes:
                raise ValueError(
                    f"segment {segment['id']} has category_id {segment['category_id']}, which the truth's 'categories' "
                    f"lack; they have {len(classes)} from {min(classes)} to {max(classes)}"
                )
        return cls(
            shared,
            np.array([classes[segment["category_id"]] for segment in true_segments], dtype=np.intp),
            np.array([classes[segment["category_id"]] for segment in predicted_segments], dtype=np.intp),
            np.array([segment.get("iscrowd", 0) == 1 for segment in true_segments], dtype=bool),
        )

    @property
    def true_areas(self) -> np.ndarray:
        """(T,) pixels of the true segments."""
        return self.shared[1:].sum(axis=1)

    @property
    def predicted_areas(self) -> np.ndarray:
        """(P,) pixels of the predicted segments."""
        return self.shared[:, 1:].sum(axis=0)

    def ious(self) -> np.ndarray:
        """Return (T, P) intersection over union; what the truth leaves void is not part of a union."""
        return intersection_over_union(self.shared)

    def confusion(self, num_classes: int) -> np.ndarray:
        """Return (K + 1, K + 1) int64, the pixels of each predicted (row) and true class; the last one is void."""
        rows, columns = (np.append(num_classes, some) for some in (self.predicted_classes, self.true_classes))
        confusion = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
        np.add.at(confusion, (rows[:, None], columns), self.shared.T)
        return confusion

    def ignored(self) -> np.ndarray:
        """Return (P,) bool, whether more than half of a predicted segment is void or crowd of its class."""
        pixels = self.shared[0, 1:].copy()
        # As in panopticapi, of several crowds of one class the last one counts.
        crowd_of_class = {self.true_classes[index]: index for index in np.flatnonzero(self.is_crowd)}
        for index, class_ in enumerate(self.predicted_classes):
            if class_ in crowd_of_class:
                pixels[index] += self.shared[1 + crowd_of_class[class_], 1 + index]
        return pixels / self.predicted_areas > 0.5

    def matches(self, ious: np.ndarray) -> np.ndarray:
        """Return (T, P) bool: IoU (T, P) above one half, of any two classes; crowds match nothing.

        A segment has at most one partner, as those of one map do not overlap.
        """
        return (ious > 0.5) & ~self.is_crowd[:, None]


def intersection_over_union(shared: np.ndarray) -> np.ndarray:
    """Return (T, P) float64 of a joint histogram (1 + T, 1 + P)."""
    common = shared[1:, 1:]
    unions = shared[1:].sum(axis=1)[:, None] + shared[:, 1:].sum(axis=0) - common - shared[0, 1:]
    return common / np.maximum(unions, 1)


def count_matches(overlap: Overlap, ious: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the counts (3, K, 4) of one picture, see `no_counts`.

    Args:
        overlap: of the picture.
        ious: (T, P), what decides: `overlap.ious()`, or at most that.
        num_classes: K.
    """
    is_right = overlap.matches(ious) & (overlap.true_classes[:, None] == overlap.predicted_classes)
    found, finders = np.nonzero(is_right)
    missed = ~overlap.is_crowd & ~is_right.any(axis=1)
    false = ~overlap.ignored() & ~is_right.any(axis=0)
    true_sizes, predicted_sizes = (
        np.searchsorted(SIZE_LIMITS, areas, side="right") for areas in (overlap.true_areas, overlap.predicted_areas)
    )
    counts = no_counts(num_classes)
    places = true_sizes[found], overlap.true_classes[found]
    np.add.at(counts, (*places, 0), ious[found, finders])
    np.add.at(counts, (*places, 1), 1)
    np.add.at(counts, (predicted_sizes[false], overlap.predicted_classes[false], 2), 1)
    np.add.at(counts, (true_sizes[missed], overlap.true_classes[missed], 3), 1)
    return counts


def class_qualities(counts: np.ndarray) -> np.ndarray:
    """Return PQ, SQ and RQ of each class, (K, 3) in percent, of counts (K, 4); nan where a class does not occur."""
    iou, found, false, missed = counts.T
    segments = found + false / 2 + missed / 2
    with np.errstate(invalid="ignore"):
        sq = np.where(found > 0, iou / found, 0.0)
        qualities = np.stack([iou / segments, np.where(segments > 0, sq, math.nan), found / segments], axis=1)
    return 100 * qualities


def group_qualities(counts: np.ndarray, categories: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return PQ, SQ and RQ of all classes, things (PQ_th, ...) and stuff (PQ_st, ...) in percent.

    They are means over the classes that occur in truth or prediction; nan where none does.

    Args:
        counts: (K, 4).
        categories: K, in the same order.
    """
    values = class_qualities(counts)
    isthing = np.array([category["isthing"] == 1 for category in categories], dtype=bool)
    results = {}
    for ending, kind in GROUPS:
        chosen = values[np.isfinite(values[:, 0]) & ((isthing == kind) if kind is not None else True)]
        means = chosen.mean(axis=0) if len(chosen) else [math.nan] * len(MEASURES)
        results.update({f"{name}{ending}": float(mean) for name, mean in zip(MEASURES, means, strict=True)})
    return results
