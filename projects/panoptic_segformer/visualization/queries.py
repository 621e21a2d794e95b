"""The paper's own figure: where queries are located, and the attention that is each one's mask.

Shape legend: H, W picture size; h, w size of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..data.categories import Color
from .draw import side_by_side

__all__ = ["QueryView", "draw_queries"]

# Panels are at most this long, and so many stand in a row.
PANEL_SIDE, COLUMNS = 480, 4
# Views that are shown at most, the best first.
MOST_VIEWS = 19
COLOR_MAP = "inferno"
# Share of the picture that attention leaves visible.
VISIBLE = 0.35


class QueryView(NamedTuple):
    """What is shown of a query.

    Attributes:
        title: its class and score.
        color: its segment's.
        attention: (h, w) values of 0 and more; 1 and more are shown alike.
        location: (cx, cy, w, h) or (cx, cy) in units of the picture; empty without one.
    """

    title: str
    color: Color
    attention: np.ndarray
    location: tuple[float, ...]


def draw_queries(image: np.ndarray, overlay: np.ndarray, views: Sequence[QueryView]) -> np.ndarray:
    """Return panels: the segments with the queries' locations on them, then the attention of each query.

    Args:
        image: (H, W, 3) uint8 RGB.
        overlay: the same with its segments.
        views: of the queries, best first.
    Returns: (H', W', 3) uint8 RGB.
    """
    views = views[:MOST_VIEWS]
    factor = PANEL_SIDE / max(image.shape[:2])
    size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
    located = Image.fromarray(overlay).resize(size, Image.Resampling.BICUBIC)
    for view in views:
        _draw_location(located, view)
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    panels = [("query locations", np.asarray(located)), *((view.title, _heat_map(small, view)) for view in views)]
    empty = np.full_like(panels[0][1], 255)
    columns = min(COLUMNS, len(panels))
    panels += [("", empty)] * (-len(panels) % columns)
    rows = [side_by_side(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    return np.concatenate(rows)


def _heat_map(small: Image.Image, view: QueryView) -> np.ndarray:
    """Return the attention of a query over the picture, its location in the colour of its segment."""
    import matplotlib as mpl  # Only here, as it takes longer to import than a picture to draw.

    attention = Image.fromarray(view.attention).resize(small.size, Image.Resampling.BILINEAR)
    heat = mpl.colormaps[COLOR_MAP](np.asarray(attention).clip(0, 1))[..., :3] * 255
    grey = np.asarray(small.convert("L"), np.float32)[..., None]
    panel = Image.fromarray((grey * VISIBLE + heat * (1 - VISIBLE)).round().astype(np.uint8))
    _draw_location(panel, view)
    return np.asarray(panel)


def _draw_location(picture: Image.Image, view: QueryView) -> None:
    """Draw box and centre of a query, in place."""
    if not view.location:
        return
    pen = ImageDraw.Draw(picture)
    width, height = picture.size
    radius = max(2, max(picture.size) // 100)
    x, y = view.location[0] * width, view.location[1] * height
    if len(view.location) == 4:
        half_width, half_height = view.location[2] * width / 2, view.location[3] * height / 2
        pen.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), outline=view.color, width=2)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=view.color, outline=(255, 255, 255))
