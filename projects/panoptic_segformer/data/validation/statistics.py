"""The picture of a dataset: its classes, and the sizes of its segments and pictures.

Counted from the files, not from what the json says of them; crowds count as one thing.
Shape legend: K number of classes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ...writing import whole_file
from .validating import Validation

__all__ = ["Statistics", "collect", "plot_statistics"]

# Colours of Okabe and Ito, which colour-blind people tell apart.
_THING_COLOR, _STUFF_COLOR = "#d55e00", "#0072b2"
_WIDTH, _LEAST_HEIGHT, _HEIGHT_PER_CLASS, _DPI = 10.0, 6.0, 0.16, 110
_BINS = 24
# Labels at 1, 2, 5, 10, ... fit if the axis ends below this many times its start.
_ROOMY = 500


@dataclass
class Statistics:
    """Counts of a dataset; classes are category ids.

    Attributes:
        segments: number of segments by class; pixels: likewise.
        thing_areas, stuff_areas: area of every segment in pixels.
        sizes: number of pictures by (height, width).
        things: number of pictures by their number of things.
    """

    segments: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    thing_areas: list[int] = field(default_factory=list)
    stuff_areas: list[int] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    things: Counter[int] = field(default_factory=Counter)


def collect(validation: Validation) -> Statistics:
    """Return the counts of a dataset that was validated, of all that could be read."""
    counts, categories = Statistics(), validation.content.category_of_id
    for (_, annotation), measured in zip(validation.content.pairs(), validation.measured, strict=True):
        if measured.size is not None:
            counts.sizes[measured.size] += 1
        if measured.extents is None:
            continue
        num_things = 0
        for segment in annotation["segments_info"]:
            category = categories.get(segment["category_id"])
            if category is None or segment["id"] not in measured.extents:
                continue
            area = measured.extents[segment["id"]].area
            counts.segments[category["id"]] += 1
            counts.pixels[category["id"]] += area
            (counts.thing_areas if category["isthing"] else counts.stuff_areas).append(area)
            num_things += bool(category["isthing"])
        counts.things[num_things] += 1
    return counts


def plot_statistics(validation: Validation, path: Path) -> None:
    """Write the statistics as a picture of the format that the path's ending says.

    Raises: ValueError: if no segment could be read.
    """
    counts = collect(validation)
    if not counts.segments:
        raise ValueError(f"{validation.paths.panoptic_json} has no segment that can be read: there is nothing to draw")
    num_classes = len(validation.content.categories)
    height = max(_LEAST_HEIGHT, _HEIGHT_PER_CLASS * num_classes)
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplot_mosaic([["segments", "pixels", right] for right in ("areas", "sizes", "things")])
        _plot_classes(axes["segments"], axes["pixels"], validation, counts)
        _plot_areas(axes["areas"], counts)
        _plot_sizes(axes["sizes"], counts)
        _plot_things(axes["things"], counts)
        with whole_file(path) as partial:
            figure.savefig(partial, dpi=_DPI)


def _plot_classes(segments: Axes, pixels: Axes, validation: Validation, counts: Statistics) -> None:
    """Draw segments and pixels of every class, most pixels first."""
    categories = sorted(validation.content.category_of_id.values(), key=lambda category: -counts.pixels[category["id"]])
    rows = np.arange(len(categories))
    colors = [_THING_COLOR if category["isthing"] else _STUFF_COLOR for category in categories]
    total = counts.pixels.total()
    segments.barh(rows, [counts.segments[category["id"]] for category in categories], color=colors)
    pixels.barh(rows, [100 * counts.pixels[category["id"]] / total for category in categories], color=colors)
    segments.set_yticks(rows, [_short(category["name"]) for category in categories])
    pixels.set_yticks(rows, [])
    least = min(counts.pixels.values())
    segments.set(xscale="log", xlabel="segments", title="classes: things orange, stuff blue")
    pixels.set(xscale="log", xlabel="share of the labelled pixels, percent")
    # Logarithmic bars begin below the shortest: a class of one segment is seen too.
    for axes, shortest in ((segments, 1), (pixels, 100 * least / total)):
        axes.set_xlim(left=shortest / 2)
        _label_plainly(axes)
        axes.set_ylim(len(categories) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)


def _plot_areas(axes: Axes, counts: Statistics) -> None:
    """Draw how large segments are, as the side of a square of their area."""
    sides = [np.sqrt(areas) for areas in (counts.thing_areas, counts.stuff_areas)]
    together = np.concatenate(sides)
    edges = np.geomspace(together.min() / 1.01, together.max() * 1.01, _BINS)
    axes.hist(sides, edges, color=[_THING_COLOR, _STUFF_COLOR], label=["things", "stuff"])
    axes.set_xscale("log")
    _label_plainly(axes)
    axes.set(xlabel="square root of a segment's area, pixels", ylabel="segments")
    axes.legend(frameon=False)


def _plot_sizes(axes: Axes, counts: Statistics) -> None:
    """Draw the sizes of pictures, larger dots for more pictures."""
    heights, widths = np.array(list(counts.sizes) or np.zeros((0, 2))).T
    numbers = np.array(list(counts.sizes.values()))
    axes.scatter(
        widths,
        heights,
        s=10 + 190 * numbers / max([1, *numbers]),
        color=_STUFF_COLOR,
        alpha=0.4,
        linewidths=0,
        clip_on=False,
    )
    axes.set(xlabel="picture's width, pixels", ylabel="height, pixels", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"{counts.sizes.total():,} pictures, sizes that occur: {len(counts.sizes):,}", fontsize=8)


def _plot_things(axes: Axes, counts: Statistics) -> None:
    """Draw how many things pictures have."""
    axes.bar(list(counts.things), list(counts.things.values()), color=_THING_COLOR)
    axes.set(xlabel="things in a picture", ylabel="pictures")
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)


def _label_plainly(axes: Axes) -> None:
    """Label a logarithmic x axis with plain numbers: powers of ten, and 2 and 5 of each where there is room."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _ROOMY * low else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
