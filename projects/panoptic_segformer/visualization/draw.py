"""Draw panoptic results: translucent overlay, thin contours, labels and a legend; panels side by side.

Detectron2's Visualizer draws with random colours and no legend; this takes the same inputs.
Shape legend: H, W picture size; N segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from .palette import ClassKey, ClassStyle, class_key, class_styles, segment_colors
from .text import INK, PAPER, Label, LegendEntry, draw_labels, draw_legend, font_of_size

if TYPE_CHECKING:
    from ..data.categories import Categories, Color

__all__ = ["draw_panoptic", "index_of_ids", "side_by_side"]

# Share of the segment's colour in a painted pixel.
OPACITY = 0.55
# Share of white in a pixel of a contour, so that contours show on dark and on bright segments.
CONTOUR_OPACITY = 0.75
# Pictures below this long side are enlarged by a whole factor (at most 4): text must fit into the segments.
LEAST_LONG_SIDE = 480
# The canvas is at least this wide: the legend needs room for one class name.
LEAST_WIDTH = 200
LEAST_FONT_SIZE = 11


def draw_panoptic(
    image: np.ndarray,
    panoptic_seg: Tensor | np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    categories: Categories,
    ranks: Mapping[int, int] | None = None,
    with_labels: bool = True,
    with_legend: bool = True,
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

    Returns: (H', W', 3) uint8, RGB; small pictures are enlarged, and the legend adds to the height.
    Raises: ValueError: if image and ids do not fit together or a class is unknown.
    """
    ids = panoptic_seg.cpu().numpy() if isinstance(panoptic_seg, Tensor) else np.asarray(panoptic_seg)
    _check(image, ids)
    styles = class_styles(categories)
    colors = segment_colors(segments_info, styles, ranks)
    factor = min(4, max(1, -(-LEAST_LONG_SIDE // max(ids.shape))))
    height, width = (side * factor for side in ids.shape)
    enlarged = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    index_map = index_of_ids(ids, list(colors)).repeat(factor, axis=0).repeat(factor, axis=1)
    font_size = max(LEAST_FONT_SIZE, round(min(height, width) / 36))

    picture = Image.fromarray(_paint(enlarged, index_map, list(colors.values()), max(1, font_size // 12)))
    if with_labels:
        draw_labels(picture, index_map, _labels(segments_info, index_map, styles), font_size)
    if not with_legend:
        return np.array(picture)
    legend = draw_legend(_legend_entries(segments_info, colors, styles), max(width, LEAST_WIDTH), font_size)
    canvas = Image.new("RGB", (legend.width, height + legend.height), PAPER)
    canvas.paste(picture, ((legend.width - width) // 2, 0))
    canvas.paste(legend, (0, height))
    return np.array(canvas)


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
    if not known_ids:
        return np.zeros(ids.shape, np.int32)
    order = np.argsort(known_ids)
    ordered = np.asarray(known_ids)[order]
    places = np.searchsorted(ordered, ids).clip(max=len(ordered) - 1)
    return np.where(ordered[places] == ids, order[places], len(ordered)).astype(np.int32)


def _paint(image: np.ndarray, index_map: np.ndarray, colors: list[Color], thickness: int) -> np.ndarray:
    """Return the image (H, W, 3) with each segment in its colour and contours `thickness` pixels wide."""
    palette = np.array([*colors, (0, 0, 0)], np.float32)
    opacity = np.array([OPACITY] * len(colors) + [0.0], np.float32)[index_map, None]
    painted = image * (1 - opacity) + palette[index_map] * opacity
    window = thickness + 1
    inner = ndimage.maximum_filter(index_map, window) != ndimage.minimum_filter(index_map, window)
    painted[inner] += CONTOUR_OPACITY * (255 - painted[inner])
    return painted.round().astype(np.uint8)


def _labels(
    segments_info: Sequence[Mapping[str, Any]], index_map: np.ndarray, styles: Mapping[ClassKey, ClassStyle]
) -> list[Label]:
    """Return one label per segment, the largest segment first."""
    areas = np.bincount(index_map.ravel(), minlength=len(segments_info))
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
