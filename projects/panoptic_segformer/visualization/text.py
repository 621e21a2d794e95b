"""Text on pictures: the font, labels that do not overlap, and the legend.

A label belongs where its segment is widest, but readable text comes first: a label that finds no free place
is left out, and the legend still names its class.
Shape legend: H, W picture size; N segments; positions and sizes in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

if TYPE_CHECKING:
    from ..data.categories import Color

__all__ = ["Label", "LegendEntry", "draw_labels", "draw_legend", "font_of_size", "place_labels"]

PAPER: Color = (255, 255, 255)
INK: Color = (33, 33, 33)
FAINT_INK: Color = (120, 120, 120)
LABEL_BOX = (0, 0, 0, 150)
# Distances are measured on a map of at most this side: labels need no more precision than that.
PLACING_SIDE = 480
# A segment gets a label when its widest place measures at least this multiple of the label's height.
LEAST_WIDTH = 1.0
# Longest class name on a segment and in the legend, as multiples of the font's size.
LONGEST_LABEL, LONGEST_NAME = 10, 16
SWATCH_STRIPES = 4


class Label(NamedTuple):
    """What is to be written on segment number `index` of an index map."""

    index: int
    name: str
    score: float | None = None


class LegendEntry(NamedTuple):
    """A class and the colours of its segments, one each."""

    name: str
    colors: list[Color]


@lru_cache(maxsize=32)
def font_of_size(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of all drawings, `size` pixels high; matplotlib brings it along."""
    import matplotlib as mpl  # Only here, as it takes longer to import than a picture to draw.

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def draw_labels(picture: Image.Image, index_map: np.ndarray, labels: Sequence[Label], font_size: int) -> None:
    """Write the labels onto the picture, in place.

    Args:
        picture: RGB, W x H.
        index_map: (H, W), the number of the segment at every pixel.
        labels: the most important first, which get the best places.
        font_size: pixels.
    """
    font = font_of_size(font_size)
    padding = max(2, font_size // 4)
    text_height = sum(font.getmetrics())
    texts = [_label_text(label, font, LONGEST_LABEL * font_size) for label in labels]
    # One pixel around each box stays free, so that neighbours do not run into each other.
    sizes = [(text_height + padding, round(font.getlength(text)) + 2 * padding) for text in texts]
    centers = place_labels(index_map, labels, sizes)
    pen = ImageDraw.Draw(picture, "RGBA")
    for text, (height, width), center in zip(texts, sizes, centers, strict=True):
        if center is None:
            continue
        y, x = center
        box = (x - width / 2 + 1, y - height / 2 + 1, x + width / 2 - 2, y + height / 2 - 2)
        pen.rounded_rectangle(box, radius=padding, fill=LABEL_BOX)
        pen.text(center[::-1], text, font=font, fill=PAPER, anchor="mm")


def _label_text(label: Label, font: ImageFont.FreeTypeFont, width: float) -> str:
    # Some datasets name a class by a list of synonyms; the first says enough on a picture.
    name = _shortened(label.name.partition(",")[0], font, width)
    return name if label.score is None else f"{name} {label.score:.2f}"


def place_labels(
    index_map: np.ndarray, labels: Sequence[Label], sizes: Sequence[tuple[int, int]]
) -> list[tuple[float, float] | None]:
    """Return the centre (y, x) of each label's box, or None where a label has no free place.

    The place is the point of the segment that is farthest from its border, among the points at which the box
    stays inside the picture and touches no box placed before.

    Args:
        index_map: (H, W), the number of the segment at every pixel.
        labels: N of them, the most important first.
        sizes: N box sizes (height, width).
    """
    height, width = index_map.shape
    stride = max(1, -(-max(height, width) // PLACING_SIDE))
    small_map = index_map[::stride, ::stride]
    outlines = ndimage.find_objects(small_map.astype(np.int32) + 1)  # Numbers from 1; 0 would be no object.
    placed: list[tuple[float, float, int, int]] = []
    centers: list[tuple[float, float] | None] = []
    for label, (box_height, box_width) in zip(labels, sizes, strict=True):
        outline = outlines[label.index] if label.index < len(outlines) else None
        center = None
        if outline is not None and box_height <= height and box_width <= width:
            mask = small_map[outline] == label.index
            # The box follows its anchor point but is pushed back where it would leave the picture.
            ys = (np.arange(mask.shape[0]) + outline[0].start + 0.5) * stride
            xs = (np.arange(mask.shape[1]) + outline[1].start + 0.5) * stride
            ys = ys.clip(box_height / 2, height - box_height / 2)
            xs = xs.clip(box_width / 2, width - box_width / 2)
            center = _free_center(mask, ys, xs, (box_height, box_width), placed, stride)
        if center is not None:
            placed.append((*center, box_height, box_width))
        centers.append(center)
    return centers


def _free_center(
    mask: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    size: tuple[int, int],
    placed: Sequence[tuple[float, float, int, int]],
    stride: int,
) -> tuple[float, float] | None:
    """Return the best centre (y, x) of one label; ys, xs are the centres that the mask's pixels stand for."""
    distances = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] * stride
    height, width = size
    for other_y, other_x, other_height, other_width in placed:
        rows = np.abs(ys - other_y) < (height + other_height) / 2
        columns = np.abs(xs - other_x) < (width + other_width) / 2
        distances[np.ix_(rows, columns)] = 0
    row, column = np.unravel_index(distances.argmax(), distances.shape)
    if 2 * distances[row, column] < LEAST_WIDTH * height:
        return None
    return float(ys[row]), float(xs[column])


def draw_legend(entries: Sequence[LegendEntry], width: int, font_size: int) -> Image.Image:
    """Return a panel `width` pixels wide that lists the entries in columns, in their order.

    Very long names are cut; the panel grows in height as needed.
    """
    font = font_of_size(font_size)
    margin, row_height = font_size // 2, round(1.7 * font_size)
    if not entries:
        panel = Image.new("RGB", (width, row_height + 2 * margin), PAPER)
        text = _shortened("no segments", font, width - 2 * margin)
        ImageDraw.Draw(panel).text((margin, panel.height / 2), text, font=font, fill=FAINT_INK, anchor="lm")
        return panel
    counts = [f" \N{MULTIPLICATION SIGN}{len(entry.colors)}" for entry in entries]
    # What an entry needs besides its name: swatch, two margins, count.
    extra = font_size + 2 * margin + max(font.getlength(count) for count in counts)
    longest = min(LONGEST_NAME * font_size, width - 2 * margin - extra)
    names = [_shortened(entry.name, font, longest) for entry in entries]
    entry_width = extra + max(font.getlength(name) for name in names)
    num_columns = min(len(entries), max(1, int((width - margin) // entry_width)))
    num_rows = -(-len(entries) // num_columns)
    panel = Image.new("RGB", (width, num_rows * row_height + 2 * margin), PAPER)
    pen = ImageDraw.Draw(panel)
    for position, (entry, name, count) in enumerate(zip(entries, names, counts, strict=True)):
        column, row = divmod(position, num_rows)
        left = round(margin + column * (width - margin) / num_columns)
        middle = margin + round((row + 0.5) * row_height)
        _draw_swatch(pen, (left, middle - font_size // 2), font_size, entry.colors)
        name_left = left + font_size + margin
        pen.text((name_left, middle), name, font=font, fill=INK, anchor="lm")
        pen.text((name_left + font.getlength(name), middle), count, font=font, fill=FAINT_INK, anchor="lm")
    return panel


def _draw_swatch(pen: ImageDraw.ImageDraw, corner: tuple[int, int], size: int, colors: Sequence[Color]) -> None:
    """Draw a square with the first few colours as stripes; the first one is the class's own."""
    left, top = corner
    stripes = colors[:SWATCH_STRIPES]
    for position, color in enumerate(stripes):
        start, end = (left + size * step // len(stripes) for step in (position, position + 1))
        pen.rectangle((start, top, end - 1, top + size - 1), fill=color)
    pen.rectangle((left, top, left + size - 1, top + size - 1), outline=FAINT_INK)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return the text, cut to end in an ellipsis if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
