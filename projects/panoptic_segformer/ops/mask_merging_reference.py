"""Masks at the size of the result in pure PyTorch, by F.interpolate.

It is the definition: the truth that tests hold the compiled operators to, and what runs on CUDA and where those
could not be built. A few masks at a time are upsampled, so memory does not grow with their number.

Shape legend: N candidates, n masks (several candidates may share one), h, w mask size, H0, W0 size of the result.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# Upsampled pixels that are held at a time; 2^24 of them are 64 MiB in float32.
PIXELS_PER_CHUNK = 2**24


def mask_statistics_reference(masks: Tensor, size: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor]:
    """Count the pixels above the threshold and sum their values; see `panoptic_segformer.ops.mask_statistics`."""
    areas = masks.new_empty(len(masks), dtype=torch.int64)
    sums = masks.new_empty(len(masks))
    for part, values in _upsampled_parts(masks, size):
        inside = values > threshold
        areas[part] = inside.sum((1, 2))
        sums[part] = values.where(inside, 0).sum((1, 2))  # A product would spread what is not a number.
    return areas, sums


def masks_above_reference(masks: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Tell where masks exceed the threshold; see `panoptic_segformer.ops.masks_above`."""
    above = masks.new_empty((len(masks), *size), dtype=torch.bool)
    for part, values in _upsampled_parts(masks, size):
        torch.gt(values, threshold, out=above[part])
    return above


def paint_masks_reference(
    masks: Tensor, rows: Tensor, limits: Tensor, size: tuple[int, int], threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Paint candidates on what is still free; see `panoptic_segformer.ops.paint_masks`.

    A GPU waits for the rows once, to check them; in the loop for nothing, since decisions stay tensors.
    """
    wrong = rows[(rows < 0) | (rows >= len(masks))]
    if len(wrong):
        raise RuntimeError(f"rows must be at least 0 and below the number of masks, {len(masks)}, got {int(wrong[0])}")
    segment_ids = masks.new_zeros(size, dtype=torch.int32)
    number = segment_ids.new_zeros(())
    kept = torch.zeros_like(rows, dtype=torch.bool)
    areas = torch.zeros_like(rows)
    for part, values in _upsampled_parts(masks, size, rows):
        for position, mask in enumerate(values > threshold, start=part.start):
            free = mask & (segment_ids == 0)
            area, visible = mask.sum(), free.sum()
            keep = (visible > 0) & ((area - visible).float() / area.float() <= limits[position])
            number += keep
            segment_ids = torch.where(free & keep, number, segment_ids)
            kept[position] = keep
            areas[position] = visible
    return segment_ids, kept, areas


# By the names of the operators that they define.
MASK_DEFINITIONS = {
    "mask_statistics": mask_statistics_reference,
    "masks_above": masks_above_reference,
    "paint_masks": paint_masks_reference,
}


def _upsampled_parts(
    masks: Tensor, size: tuple[int, int], rows: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Go through masks, or those at rows (N,), a few at a time: yield which ones, and their values at the size."""
    height, width = size
    step = max(1, PIXELS_PER_CHUNK // (height * width))
    for start in range(0, len(masks if rows is None else rows), step):
        part = slice(start, start + step)
        chosen = masks[part if rows is None else rows[part]]
        yield part, F.interpolate(chosen[None], size, mode="bilinear", align_corners=False)[0]
