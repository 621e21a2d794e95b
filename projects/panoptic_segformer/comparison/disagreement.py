"""Where models disagree about a picture, whoever of them is right.

Two models agree on a pixel if both see the same class there and, for things, the same instance. Void counts as a
class of its own: a model that sees nothing disagrees with one that sees something.
Shape legend: H, W size of the picture; N, M segments of two predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .matching import NumberedSegments, same_segments
from .results import Prediction

__all__ = ["disagreement", "disagreement_map"]


def disagreement_map(predictions: Sequence[Prediction]) -> np.ndarray:
    """Return (H, W) float64 in [0, 1]: the share of all pairs of predictions that disagree on a pixel.

    Args:
        predictions: of one picture by different models, in any order. One alone disagrees nowhere; of none the
            map is empty, (0, 0).

    Raises: ValueError: if sizes differ (states both).
    """
    if not predictions:
        return np.zeros((0, 0))
    pairs = list(combinations(map(NumberedSegments.of, predictions), 2))
    total = np.zeros(predictions[0].segment_ids.shape, np.int64)
    for first, second in pairs:
        total += _differing(first, second)
    return total / max(1, len(pairs))


def disagreement(predictions: Sequence[Prediction]) -> float:
    """Return the mean of `disagreement_map` over the picture, 0 for fewer than two predictions."""
    return float(disagreement_map(predictions).mean()) if predictions else 0.0


def _differing(first: NumberedSegments, second: NumberedSegments) -> np.ndarray:
    """Return (H, W) bool, where two predictions disagree."""
    equal_class = first.category_ids[:, None] == second.category_ids
    agreeing = equal_class & (~first.isthing[:, None] | same_segments(first, second))  # (1 + N, 1 + M)
    return ~agreeing[first.numbers, second.numbers]
