"""An annotated picture of a dataset beside what a model made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from panopticapi.utils import rgb2id
from torch import Tensor

from ..data.categories import Categories
from ..data.reading import read_picture, read_segment_colors
from .draw import draw_panoptic, side_by_side

__all__ = ["draw_example"]


def draw_example(
    record: Mapping[str, Any], prediction: tuple[Tensor, Sequence[Mapping[str, Any]]], categories: Categories
) -> np.ndarray:
    """Return input, truth and prediction side by side: (H', W', 3) uint8 RGB.

    Args:
        record: Detectron2's dict of the picture, with `pan_seg_file_name` and `segments_info`.
        prediction: segment ids (H, W) and their records, the model's `panoptic_seg`.
        categories: names and colours of the classes.
    Raises: FileNotFoundError, ValueError: if picture or png can't be read.
    """
    image = read_picture(record["file_name"], "RGB")
    truth = rgb2id(read_segment_colors(record["pan_seg_file_name"], image.shape[:2]))
    panels = [
        ("input", image),
        ("truth", draw_panoptic(image, truth, record["segments_info"], categories)),
        ("prediction", draw_panoptic(image, *prediction, categories)),
    ]
    return side_by_side(panels)
