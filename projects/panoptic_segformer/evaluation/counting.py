"""Everything that is counted of saved predictions: quality by class, size and boundary, and what is taken for what.

Shape legend: K classes, 3 sizes of segments, T true and P predicted segments of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tabulate import tabulate

from ..data.parallel import parallel_map
from .boundary import boundary_ious
from .predictions import SavedPicture
from .quality import (
    GROUPS,
    MEASURES,
    SIZES,
    Overlap,
    class_indices,
    class_qualities,
    count_matches,
    group_qualities,
    no_counts,
)

__all__ = ["Evaluation", "evaluate_pictures", "part_table"]


@dataclass
class Evaluation:
    """Counts of all pictures together.

    Attributes:
        categories: K, in the order of all counts.
        counts: (3, K, 4) by size and class: sum of IoU, found, false and missed segments.
        boundary_counts: the same of Boundary PQ.
        pixels: (K + 1, K + 1) pixels of each predicted (row) and true class; the last one is void.
        segments: (K + 1, K + 1) segments of each predicted (row) and true class whose masks match (IoU above one
            half), whatever their classes; the last row has missed, the last column false segments.
        facts: text by name.
    """

    categories: Sequence[Mapping[str, Any]]
    counts: np.ndarray
    boundary_counts: np.ndarray
    pixels: np.ndarray
    segments: np.ndarray
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_nothing(cls, categories: Sequence[Mapping[str, Any]]) -> Evaluation:
        """Return counts of no picture."""
        number = len(categories)
        pixels, segments = np.zeros((2, number + 1, number + 1), dtype=np.int64)
        return cls(categories, no_counts(number), no_counts(number), pixels, segments)

    def add(self, overlap: Overlap, boundary: np.ndarray) -> None:
        """Count one picture.

        Args:
            overlap: of the picture.
            boundary: (T, P) boundary IoU.
        """
        number = len(self.categories)
        ious = overlap.ious()
        self.counts += count_matches(overlap, ious, number)
        self.boundary_counts += count_matches(overlap, np.minimum(ious, boundary), number)
        self.pixels += overlap.confusion(number)
        matches = overlap.matches(ious)
        true, predicted = np.nonzero(matches)
        np.add.at(self.segments, (overlap.predicted_classes[predicted], overlap.true_classes[true]), 1)
        missed = ~overlap.is_crowd & ~matches.any(axis=1)
        np.add.at(self.segments, (number, overlap.true_classes[missed]), 1)
        false = ~overlap.ignored() & ~matches.any(axis=0)
        np.add.at(self.segments, (overlap.predicted_classes[false], number), 1)

    def quality(self) -> dict[str, float]:
        """Return PQ, SQ and RQ of all classes, things (_th) and stuff (_st), and boundary_PQ of the same groups."""
        boundary = group_qualities(self.boundary_counts.sum(axis=0), self.categories)
        return {
            **group_qualities(self.counts.sum(axis=0), self.categories),
            **{f"boundary_{name}": boundary[name] for name in ("PQ", "PQ_th", "PQ_st")},
        }

    def size_qualities(self) -> dict[str, dict[str, float]]:
        """Return the qualities of small, medium and large segments, as `group_qualities`."""
        return {size: group_qualities(self.counts[index], self.categories) for index, size in enumerate(SIZES)}

    def classes(self) -> list[dict[str, Any]]:
        """Return a record per class: its category, qualities in percent, found, false and missed segments."""
        total = self.counts.sum(axis=0)
        columns = dict(zip(MEASURES, class_qualities(total).T, strict=True))
        columns["boundary_PQ"] = class_qualities(self.boundary_counts.sum(axis=0))[:, 0]
        columns |= {f"PQ_{size}": class_qualities(self.counts[index])[:, 0] for index, size in enumerate(SIZES)}
        records = []
        for index, category in enumerate(self.categories):
            found, false, missed = map(int, total[index, 1:])
            records.append(
                {
                    "id": category["id"],
                    "name": category["name"],
                    "isthing": bool(category["isthing"]),
                    **{key: float(values[index]) for key, values in columns.items()},
                    "found": found,
                    "false": false,
                    "missed": missed,
                }
            )
        return records

    def as_json(self) -> dict[str, Any]:
        """Return everything in a form that json takes; numbers that do not exist are None.

        The confusions are lists of [true class, predicted class, number]; None stands for no segment, or void.
        """
        content = {
            "facts": self.facts,
            "quality": self.quality(),
            "sizes": self.size_qualities(),
            "classes": self.classes(),
            "confusion_of_segments": self._cells(self.segments),
            "confusion_of_pixels": self._cells(self.pixels),
        }
        return _without_nan(content)

    def _cells(self, confusion: np.ndarray) -> list[list[Any]]:
        names = [*(category["name"] for category in self.categories), None]
        return [[names[true], names[own], int(confusion[own, true])] for own, true in np.argwhere(confusion)]


def evaluate_pictures(
    pictures: Sequence[SavedPicture], categories: Sequence[Mapping[str, Any]], workers: int
) -> Evaluation:
    """Read and count pictures in several processes, with a progress bar.

    Args:
        pictures: what `saved_pictures` returned.
        categories: of the truth.
        workers: number of processes.

    Raises: FileNotFoundError, ValueError: if a png is missing, damaged or does not fit its records or its picture.
    """
    evaluation = Evaluation.of_nothing(categories)
    for overlap, boundary in parallel_map(partial(_meet, class_indices(categories)), pictures, workers):
        evaluation.add(overlap, boundary)
    evaluation.facts["pictures"] = str(len(pictures))
    return evaluation


def part_table(evaluation: Evaluation) -> str:
    """Return a table of PQ by size, and of Boundary PQ."""
    rows = [
        [size, *(qualities[f"PQ{ending}"] for ending, _ in GROUPS)]
        for size, qualities in evaluation.size_qualities().items()
    ]
    quality = evaluation.quality()
    rows.append(["boundary", *(quality[f"boundary_PQ{ending}"] for ending, _ in GROUPS)])
    return tabulate(rows, ["PQ of", "all", "things", "stuff"], tablefmt="pipe", floatfmt=".2f")


def _meet(classes: Mapping[int, int], picture: SavedPicture) -> tuple[Overlap, np.ndarray]:
    """Return what is counted of a picture: small things, since they come from another process."""
    maps = picture.truth.read(), picture.prediction.read()
    records = picture.truth.segments, picture.prediction.segments
    overlap = Overlap.of(maps[0], records[0], maps[1], records[1], classes)
    return overlap, boundary_ious(*maps, *([segment["id"] for segment in some] for some in records))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
