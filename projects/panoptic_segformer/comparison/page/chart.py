"""The chart of quality against latency, as svg that follows the page's colours.

Shape legend: positions in units of the svg's own box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...markup import Markup, element
from ..results import ModelResult

__all__ = ["quality_chart"]

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 16, 48
# Labels nearer to each other, or to points, than this are moved apart.
LINE_HEIGHT = 17
LABEL_GAP = 11
# Rough width of a letter of a label.
LETTER_WIDTH = 8.6


class Axis:
    """A linear scale with round ticks from `start` to `end` positions."""

    def __init__(self, values: Sequence[float], start: float, end: float, from_zero: bool) -> None:
        low, high = (0.0 if from_zero else min(values)), max(values)
        self.step = _round_step((high - low) / 4 or abs(high) / 4 or 1.0)
        first = math.floor(low / self.step)
        last = max(math.ceil(high / self.step), first + 1)
        self.low, self.high = first * self.step, last * self.step
        self.start, self.end = start, end

    def ticks(self) -> list[float]:
        """Return the round values of the axis."""
        count = round((self.high - self.low) / self.step)
        return [self.low + index * self.step for index in range(count + 1)]

    def position(self, value: float) -> float:
        """Return where a value is."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def quality_chart(models: Sequence[ModelResult]) -> Markup | None:
    """Return the svg of PQ against median latency, None unless two models have both."""
    points = {
        model.name: (model.costs["latency_ms"], model.qualities["PQ"])
        for model in models
        if math.isfinite(model.costs.get("latency_ms", math.nan) + model.qualities.get("PQ", math.nan))
    }
    if len(points) < 2:
        return None
    x_axis = Axis([x for x, _ in points.values()], LEFT, WIDTH - RIGHT, from_zero=True)
    y_axis = Axis([y for _, y in points.values()], HEIGHT - BOTTOM, TOP, from_zero=False)
    places = {name: (x_axis.position(x), y_axis.position(y)) for name, (x, y) in points.items()}
    words = "; ".join(f"{name}: PQ {y:.1f} at {x:.1f} ms" for name, (x, y) in points.items())
    return element(
        "svg",
        element("title", f"PQ against latency. {words}."),
        *_grid(x_axis, y_axis),
        *(element("circle", cx=x, cy=y, r=6) for x, y in places.values()),
        *_labels(places),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def _grid(x_axis: Axis, y_axis: Axis) -> list[Markup]:
    parts = []
    for value in x_axis.ticks():
        x = x_axis.position(value)
        parts.append(element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM))
        parts.append(element("text", f"{value:g}", x=x, y=HEIGHT - BOTTOM + 18, text_anchor="middle"))
    for value in y_axis.ticks():
        y = y_axis.position(value)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        parts.append(element("text", f"{value:g}", x=LEFT - 8, y=y + 4, text_anchor="end"))
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(element("text", "median latency of one picture, ms", x=middle_x, y=HEIGHT - 8, text_anchor="middle"))
    turned = f"translate(14 {middle_y}) rotate(-90)"
    parts.append(element("text", "PQ, %", transform=turned, text_anchor="middle"))
    return parts


def _labels(places: dict[str, tuple[float, float]]) -> list[Markup]:
    """Return the name beside each point, on its left if the right has no room, and none upon another or a point."""
    labels: list[Markup] = []
    taken = [(x, x, y) for x, y in places.values()]  # Left and right end, height.
    middle = (TOP + HEIGHT - BOTTOM) / 2
    # From the edges inwards, so that names give way to where there is room.
    for name, (x, y) in sorted(places.items(), key=lambda item: -abs(item[1][1] - middle)):
        width = len(name) * LETTER_WIDTH
        on_left = x + LABEL_GAP + width > WIDTH and x - LABEL_GAP - width > 0
        left = x - LABEL_GAP - width if on_left else x + LABEL_GAP
        others = [other for start, end, other in taken if left < end and start < left + width]
        height = y
        while any(abs(height - other) < LINE_HEIGHT for other in others):
            height += 1 if y < middle else -1
        taken.append((left, left + width, height))
        anchor, label_x = ("end", x - LABEL_GAP) if on_left else ("start", x + LABEL_GAP)
        labels.append(element("text", name, x=label_x, y=round(height + 5, 1), text_anchor=anchor, class_="name"))
    return labels


def _round_step(size: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= size * (1 - 1e-9))
