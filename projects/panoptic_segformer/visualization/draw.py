"""Draw panoptic results: translucent overlay, contours or boxes, labels and a legend; panels side by side.

Detectron2's Visualizer draws with random colours and no legend; this takes the same inputs.
Shape legend: H, W picture size; N segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from .palette import ClassKey, ClassStyle, class_key, class_styles, segment_colors
from .text import INK, PAPER, Label, LegendEntry, draw_labels, draw_legend, font_of_size

if TYPE_CHECKING:
    from ..data.categories import Categories, Color

__all__ = ["Style", "draw_on_picture", "draw_panoptic", "index_of_ids", "side_by_side"]

# Share of the segment's colour in a painted pixel.
OPACITY = 0.55
# Share of white in a pixel of a contour, so that contours show on dark and on bright segments.
CONTOUR_OPACITY = 0.75
# Pictures below this long side are enlarged by a whole factor (at most 4): text must fit into the segments.
LEAST_LONG_SIDE = 480
# The canvas is at least this wide: the legend needs room for one class name.
LEAST_WIDTH = 200
LEAST_FONT_SIZE = 11
# Pixels that are painted at a time.
PIXELS_PER_STRIP = 2**19


class Style(StrEnum):
    """How segments are shown: filled and outlined, outlined alone, or things by their boxes."""

    OVERLAY = "overlay"
    CONTOURS = "contours"
    BOXES = "boxes"


def draw_panoptic(
    image: np.ndarray,
    panoptic_seg: Tensor | np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    categories: Categories,
    ranks: Mapping[int, int] | None = None,
    with_labels: bool = True,
    with_legend: bool = True,
    style: Style = Style.OVERLAY,
) -> np.ndarray:
    """Return the picture with its segments painted over it and a legend below.

    Args:
        image: (H, W, 3) uint8, RGB.
        panoptic_seg: (H, W) integer segment ids; what `segments_info` does not list stays unpainted.
        segments_info: N records with `id`, `category_id` (contiguous), `isthing` (needed where things and stuff
            share ids) and, in predictions, `score`.
        categories: names and colours of the classes.
        ranks: which shade of its class's colour each segment id gets; by default segments of a class are counted.
        with_labels: False leaves out the names on the segments.
        with_legend: False leaves out the legend below the picture.
        style: how the segments are shown.

    Returns: (H', W', 3) uint8, RGB; small pictures are enlarged, and the legend adds to the height.
    Raises: ValueError: if image and ids do not fit together or a class is unknown.
    """
    ids = panoptic_seg.cpu().numpy() if isinstance(panoptic_seg, Tensor) else np.asarray(panoptic_seg)
    _check(image, ids)
    factor = min(4, max(1, -(-LEAST_LONG_SIDE // max(ids.shape))))
    if factor > 1:
        height, width = (side * factor for side in ids.shape)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        ids = ids.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = draw_on_picture(image, ids, segments_info, categories, ranks, with_labels, style)
    if not with_legend:
        return picture
    height, width = ids.shape
    styles = class_styles(categories)
    colors = segment_colors(segments_info, styles, ranks)
    shown = [one for one in segments_info if style != Style.BOXES or class_key(one, styles)[0]]
    entries = _legend_entries(shown, colors, styles)
    legend = draw_legend(entries, max(width, LEAST_WIDTH), _font_size(ids.shape))
    canvas = Image.new("RGB", (legend.width, height + legend.height), PAPER)
    canvas.paste(Image.fromarray(picture), ((legend.width - width) // 2, 0))
    canvas.paste(legend, (0, height))
    return np.array(canvas)


def draw_on_picture(
    image: np.ndarray,
    panoptic_seg: Tensor | np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    categories: Categories,
    ranks: Mapping[int, int] | None = None,
    with_labels: bool = True,
    style: Style = Style.OVERLAY,
) -> np.ndarray:
    """Return the picture with its segments, in its own size: (H, W, 3) uint8 RGB; arguments as `draw_panoptic`'s."""
    ids = panoptic_seg.cpu().numpy() if isinstance(panoptic_seg, Tensor) else np.asarray(panoptic_seg)
    _check(image, ids)
    styles = class_styles(categories)
    colors = segment_colors(segments_info, styles, ranks)
    index_map = index_of_ids(ids, list(colors))
    font_size = _font_size(ids.shape)
    thickness = max(1, font_size // 12)
    is_thing = [class_key(segment, styles)[0] for segment in segments_info]
    if style == Style.BOXES:
        picture = Image.fromarray(image)
        of_things = [color if thing else None for color, thing in zip(colors.values(), is_thing, strict=True)]
        _draw_boxes(picture, index_map, of_things, 2 * thickness)
    else:
        picture = Image.fromarray(_paint(image, index_map, list(colors.values()), thickness, style))
    if with_labels:
        labels = _labels(segments_info, index_map, styles)
        labels = [label for label in labels if is_thing[label.index]] if style == Style.BOXES else labels
        draw_labels(picture, index_map, labels, font_size)
    return np.array(picture)


def _font_size(size: tuple[int, int]) -> int:
    return max(LEAST_FONT_SIZE, round(min(size) / 36))


def _check(image: np.ndarray, ids: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the picture is {image.dtype} of shape {image.shape}: pass uint8 of shape (H, W, 3), RGB")
    if ids.shape != image.shape[:2] or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"panoptic_seg is {ids.dtype} of shape {ids.shape}, expected integers of the picture's "
            f"shape {image.shape[:2]}"
        )


def index_of_ids(ids: np.ndarray, known_ids: Sequence[int]) -> np.ndarray:
    """Return (H, W) the position of each pixel's id in `known_ids`, N where it is none of them."""
    indices = np.zeros(ids.shape, np.int32)
    if not known_ids:
        return indices
    order = np.argsort(known_ids)
    ordered = np.asarray(known_ids)[order]
    for rows in _strips(ids.shape):
        places = np.searchsorted(ordered, ids[rows]).clip(max=len(ordered) - 1)
        indices[rows] = np.where(ordered[places] == ids[rows], order[places], len(ordered))
    return indices


def _strips(size: tuple[int, int]) -> Iterator[slice]:
    """Yield rows of a map (H, W) that are worked on together: scratch memory does not grow with the picture."""
    height, width = size
    step = max(1, PIXELS_PER_STRIP // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _paint(image: np.ndarray, index_map: np.ndarray, colors: list[Color], thickness: int, style: Style) -> np.ndarray:
    """Return the image (H, W, 3) with each segment in its colour, or its contour alone.

    Contours are `thickness` pixels wide; where segments are filled they are white, otherwise twice as wide and in the
    segment's colour.
    """
    palette = np.array([*colors, (0, 0, 0)], np.float32)
    is_filled = style == Style.OVERLAY
    opacities = np.array([OPACITY if is_filled else 1.0] * len(colors) + [0.0], np.float32)
    window = thickness + 1 if is_filled else 4 * thickness + 1
    result = np.empty_like(image)
    for rows in _strips(index_map.shape):
        indices, borders = index_map[rows], _borders(index_map, rows, window)
        opacity = opacities[indices]
        if not is_filled:
            opacity = opacity * borders
        painted = image[rows] * (1 - opacity[..., None]) + palette[indices] * opacity[..., None]
        if is_filled:
            painted[borders] += CONTOUR_OPACITY * (255 - painted[borders])
        result[rows] = painted.round().astype(np.uint8)
    return result


def _borders(index_map: np.ndarray, rows: slice, window: int) -> np.ndarray:
    """Return which pixels of some rows see more than one segment in a window around them."""
    top = max(0, rows.start - window)
    near = index_map[top : rows.stop + window]
    borders = ndimage.maximum_filter(near, window) != ndimage.minimum_filter(near, window)
    return borders[rows.start - top :][: rows.stop - rows.start]


def _draw_boxes(picture: Image.Image, index_map: np.ndarray, colors: Sequence[Color | None], thickness: int) -> None:
    """Draw the box of every segment that has a colour, in place; the last ones first, as they are the least sure."""
    if not colors:
        return  # find_objects takes 0 for no limit
    pen = ImageDraw.Draw(picture)
    outlines = ndimage.find_objects(index_map + 1, len(colors))  # Numbers from 1; 0 would be no object.
    for outline, color in reversed(list(zip(outlines, colors, strict=True))):
        if outline is not None and color is not None:
            rows, columns = outline
            pen.rectangle((columns.start, rows.start, columns.stop - 1, rows.stop - 1), outline=color, width=thickness)


def _labels(
    segments_info: Sequence[Mapping[str, Any]], index_map: np.ndarray, styles: Mapping[ClassKey, ClassStyle]
) -> list[Label]:
    """Return one label per segment, the largest segment first."""
    number = len(segments_info) + 1
    areas = sum(np.bincount(index_map[rows].ravel(), minlength=number) for rows in _strips(index_map.shape))
    labels = []
    for index in sorted(range(len(segments_info)), key=lambda position: -areas[position]):
        segment = segments_info[index]
        name = styles[class_key(segment, styles)].name
        labels.append(Label(index, name, segment.get("score")))
    return labels


def _legend_entries(
    segments_info: Sequence[Mapping[str, Any]], colors: Mapping[int, Color], styles: Mapping[ClassKey, ClassStyle]
) -> list[LegendEntry]:
    """Return the classes that occur, in the order of `styles`, which is the same for every picture."""
    entries = {key: LegendEntry(style.name, []) for key, style in styles.items()}
    for segment in segments_info:
        entries[class_key(segment, styles)].colors.append(colors[int(segment["id"])])
    return [entry for entry in entries.values() if entry.colors]


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Return one picture of titled panels in a row, all scaled to the width of the widest.

    Args:
        panels: titles, and pictures (H, W, 3) uint8 RGB of any size.

    Raises: ValueError: if there is no panel.
    """
    if not panels:
        raise ValueError("there are no panels to put side by side: give at least one (title, picture)")
    width = max(picture.shape[1] for _, picture in panels)
    pictures = [_of_width(picture, width) for _, picture in panels]
    font_size = max(LEAST_FONT_SIZE, width // 28)
    margin, title_height = font_size // 2, 2 * font_size
    height = title_height + max(picture.height for picture in pictures)
    canvas = Image.new("RGB", (len(panels) * (width + margin) + margin, height + margin), PAPER)
    pen = ImageDraw.Draw(canvas)
    for position, ((title, _), picture) in enumerate(zip(panels, pictures, strict=True)):
        left = margin + position * (width + margin)
        middle = (left + width / 2, title_height / 2)
        pen.text(middle, title, font=font_of_size(font_size), fill=INK, anchor="mm")
        canvas.paste(picture, (left, title_height))
    return np.array(canvas)


def _of_width(picture: np.ndarray, width: int) -> Image.Image:
    scaled_height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return Image.fromarray(picture).resize((width, scaled_height), Image.Resampling.BICUBIC)
