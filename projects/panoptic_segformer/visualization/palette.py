"""Colours that depend on the class and on a segment's rank within its class, never on chance.

Detectron2's Visualizer jitters its colours, so the same scene looks different in every run; here truth,
prediction and next week's prediction of one class share a colour.
Shape legend: a colour is (red, green, blue), each an int in [0, 255].
"""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..data.categories import Categories, Color

__all__ = ["ClassKey", "ClassStyle", "class_key", "class_styles", "color_of_rank", "segment_colors"]

# Whether a class is a thing, and its contiguous id: "separated" metadata counts things and stuff from 0 each.
ClassKey = tuple[bool, int]

# Steps of a low-discrepancy sequence in two dimensions: however many colours are taken, they are spread evenly.
# Roberts 2018, "The unreasonable effectiveness of quasirandom sequences", R2.
LIGHTNESS_STEP, HUE_STEP = 0.7548776662, 0.5698402910
# Segments of one class stay recognisable as that class within this span of hue (1 = the full circle) ...
HUE_SPAN = 0.25
# ... and readable on the picture within these lightnesses.
LIGHTNESS_RANGE = (0.3, 0.78)


class ClassStyle(NamedTuple):
    """How one class is shown: its name and its colour."""

    name: str
    color: Color


def class_styles(categories: Categories) -> dict[ClassKey, ClassStyle]:
    """Return the style of every class by its key, things first."""
    kinds = (
        (True, categories.thing_ids, categories.thing_names, categories.thing_colors),
        (False, categories.stuff_ids, categories.stuff_names, categories.stuff_colors),
    )
    return {
        (isthing, class_id): ClassStyle(name, color)
        for isthing, *columns in kinds
        for class_id, name, color in zip(*columns, strict=True)
    }


def class_key(segment: Mapping[str, Any], styles: Mapping[ClassKey, ClassStyle]) -> ClassKey:
    """Return the key of a segment's class; where the segment has no `isthing`, things come first."""
    class_id = int(segment["category_id"])
    return bool(segment.get("isthing", (True, class_id) in styles)), class_id


def segment_colors(
    segments_info: Iterable[Mapping[str, Any]],
    styles: Mapping[ClassKey, ClassStyle],
    ranks: Mapping[int, int] | None = None,
) -> dict[int, Color]:
    """Return the colour of every segment by its id.

    Args:
        segments_info: records with `id`, `category_id` and mostly `isthing`; their order gives the rank within a
            class unless `ranks` does.
        styles: what `class_styles` returned.
        ranks: rank within its class of every segment id, so that several results can share shades.

    Raises: ValueError: if a segment's class has no style.
    """
    colors = {}
    counts: Counter[ClassKey] = Counter()
    for segment in segments_info:
        key = class_key(segment, styles)
        if key not in styles:
            things, stuff = (sorted(id_ for isthing, id_ in styles if isthing == kind) for kind in (True, False))
            raise ValueError(
                f"segment {segment['id']} has category_id {key[1]} (isthing {segment.get('isthing', 'not given')}), "
                f"which is none of the classes, things {things} and stuff {stuff}: draw with the metadata of the "
                "dataset the model was trained on"
            )
        segment_id = int(segment["id"])
        colors[segment_id] = color_of_rank(styles[key].color, counts[key] if ranks is None else ranks[segment_id])
        counts[key] += 1
    return colors


def color_of_rank(color: Color, rank: int) -> Color:
    """Return the class's own colour for rank 0 and shades of it, all different, for the ranks above."""
    if rank == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(part / 255 for part in color))
    low, high = LIGHTNESS_RANGE
    start = min(max((lightness - low) / (high - low), 0.0), 1.0)
    shade = low + (start + rank * LIGHTNESS_STEP) % 1 * (high - low)
    hue += ((0.5 + rank * HUE_STEP) % 1 - 0.5) * HUE_SPAN
    # Grey has no hue to shift: a little saturation gives its segments one more thing to differ in.
    # Pure colours turn glaring when a dark one of them is lightened.
    return _from_hls(hue, shade, min(max(saturation, 0.4), 0.8))


def _from_hls(hue: float, lightness: float, saturation: float) -> Color:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue % 1, lightness, saturation))
    return red, green, blue
