"""The drawings of the page: segments over a picture, the same colours for every model, and the disagreement map.

Shape legend: H, W size of the picture; h, w that of its drawings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...data.categories import Categories
from ...visualization import draw_panoptic
from ...writing import whole_file
from ..matching import NumberedSegments, same_segments
from ..results import Category, Prediction

__all__ = [
    "THUMBNAIL_SIDE",
    "dataset_categories",
    "draw_disagreement",
    "draw_prediction",
    "shade_ranks",
    "shrink",
    "write_jpeg",
]

# Longest side of a drawing, and of the thumbnail that stands for it: hundreds of them are on one page.
DRAWING_SIDE, THUMBNAIL_SIDE = 640, 400
JPEG_QUALITY = 85
# The picture under a disagreement map is grey and keeps this share of its brightness, ...
DIMMED = 0.3
# ... so that this colour is lighter than any part of it.
DISAGREEMENT_COLOR = (255, 176, 32)


def dataset_categories(categories: Sequence[Category]) -> Categories:
    """Return the classes in the form that drawing takes, with the dataset's ids in the place of contiguous ones."""
    things = [category for category in categories if category.isthing]
    stuff = [category for category in categories if not category.isthing]
    columns = [
        tuple(getattr(one, name) for one in kind) for name in ("id", "name", "color") for kind in (things, stuff)
    ]
    return Categories(*columns)


def shade_ranks(prediction: Prediction, reference: Prediction) -> dict[int, int]:
    """Return which shade of its class each segment gets: that of the same segment in the reference, if there is one.

    Things that the reference does not have get shades that it does not use; stuff has one colour per class.
    """
    segments, others = NumberedSegments.of(prediction), NumberedSegments.of(reference)
    used = Counter(others.category_ids[others.isthing].tolist())
    ranks_of_reference = _ranks_in_order(others)
    ranks = {}
    for id_, same, category_id, isthing in zip(
        segments.ids,
        same_segments(segments, others)[1:, 1:],
        segments.category_ids[1:].tolist(),
        segments.isthing[1:],
        strict=True,
    ):
        if not isthing:
            ranks[id_] = 0
        elif same.any():
            ranks[id_] = ranks_of_reference[int(same.argmax())]
        else:
            ranks[id_] = used[category_id]
            used[category_id] += 1
    return ranks


def _ranks_in_order(segments: NumberedSegments) -> list[int]:
    """Return the rank of each segment within its class."""
    counts: Counter[int] = Counter()
    ranks = []
    for category_id in segments.category_ids[1:].tolist():
        ranks.append(counts[category_id])
        counts[category_id] += 1
    return ranks


def shrink(image: np.ndarray, longest_side: int = DRAWING_SIDE) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 as (h, w, 3), or as it is if it is small enough."""
    height, width = image.shape[:2]
    factor = min(1.0, longest_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def draw_prediction(
    small_image: np.ndarray,
    prediction: Prediction,
    ranks: Mapping[int, int],
    categories: Categories,
    with_labels: bool,
) -> np.ndarray:
    """Return the segments over the picture.

    Args:
        small_image: (h, w, 3) uint8 RGB, what `shrink` returned.
        prediction: of size (H, W).
        ranks: what `shade_ranks` returned.
        categories: what `dataset_categories` returned.
        with_labels: whether names stand on the segments.

    Returns: (h', w', 3) uint8 RGB; drawings of small pictures are larger.
    """
    small_ids = _nearest(prediction.segment_ids, small_image.shape[:2])
    return draw_panoptic(small_image, small_ids, prediction.segments, categories, ranks, with_labels, with_legend=False)


def draw_disagreement(small_image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the picture (h, w, 3) uint8, dim and grey, lit up where models disagree.

    Args:
        small_image: (h, w, 3) uint8 RGB, what `shrink` returned.
        shares: (H, W) in [0, 1], what `disagreement_map` returned.
    """
    height, width = small_image.shape[:2]
    small_shares = Image.fromarray(shares.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    opacity = np.asarray(small_shares)[..., None]
    grey = np.asarray(Image.fromarray(small_image).convert("L"), np.float32)[..., None] * DIMMED
    return (grey + opacity * (np.float32(DISAGREEMENT_COLOR) - grey)).round().astype(np.uint8)


def write_jpeg(drawing: np.ndarray, path: Path) -> None:
    """Write a drawing (h, w, 3) uint8 RGB."""
    with whole_file(path) as partial:
        Image.fromarray(drawing).save(partial, quality=JPEG_QUALITY)


def _nearest(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return ids (H, W) as (h, w), each the one nearest to its pixel's centre."""
    rows, columns = (
        ((np.arange(small) + 0.5) * large / small).astype(np.intp) for small, large in zip(size, ids.shape, strict=True)
    )
    return ids[np.ix_(rows, columns)]
