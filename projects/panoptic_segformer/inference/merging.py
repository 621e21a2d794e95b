"""Mask-wise merging: the masks of all queries to one segment map.

Paper, section 3.6, algorithm 1, as the released code computes it. Masks are unbounded ReLU values.
Shape legend: N candidates, n masks (several candidates may share one), h, w mask size, H0, W0 size of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MergeOptions", "UpsampledMasks", "merge_masks", "upper_score_bounds", "upsample_masks"]

# Upsampled pixels that are held in float at a time; 2^26 of them are 256 MiB.
PIXELS_PER_CHUNK = 2**26


@dataclass(frozen=True)
class MergeOptions:
    """Thresholds and exponents of merging, see MODEL.PANOPTIC_SEGFORMER.MERGING."""

    mask_threshold: float
    score_threshold: float
    thing_overlap_threshold: float
    stuff_overlap_threshold: float
    class_exponent: float
    mask_exponent: float


@dataclass(frozen=True)
class UpsampledMasks:
    """Masks at the size of the result.

    Attributes:
        inside: (n, H0, W0) bool.
        means: (n,) mean mask value inside, over one pixel more than there are (may exceed 1).
    """

    inside: Tensor
    means: Tensor


def upper_score_bounds(class_probs: Tensor, masks: Tensor, options: MergeOptions) -> Tensor:
    """Return what the score (N,) of candidates can't exceed, from their low-resolution masks (N, h, w).

    The score's mask factor is a mean over pixels above the threshold, and bilinear interpolation never exceeds the
    largest value; a mask that stays below the threshold scores 0.
    """
    peaks = masks.flatten(1).amax(1) * (1 + 1e-5)  # interpolation may round up
    bounds = class_probs**options.class_exponent * peaks**options.mask_exponent
    return torch.where(peaks > options.mask_threshold, bounds, 0.0)


def upsample_masks(masks: Tensor, size: tuple[int, int], threshold: float) -> UpsampledMasks:
    """Bring masks (n, h, w) to size (H0, W0), a few at a time so that memory does not grow with n floats."""
    step = max(1, PIXELS_PER_CHUNK // (size[0] * size[1]))
    inside = masks.new_empty((len(masks), *size), dtype=torch.bool)
    means = masks.new_empty(len(masks))
    for start in range(0, len(masks), step):
        part = slice(start, start + step)
        values = F.interpolate(masks[None, part], size, mode="bilinear", align_corners=False)[0]
        torch.gt(values, threshold, out=inside[part])
        values.mul_(inside[part])
        means[part] = values.sum((1, 2)) / (inside[part].sum((1, 2)) + 1)
    return UpsampledMasks(inside, means)


def merge_masks(
    inside: Tensor, mask_index: Tensor, scores: Tensor, is_thing: Tensor, options: MergeOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Paint the candidates, best first, on what is still free.

    A candidate is dropped if its score is too low, its mask empty, or too large a share of it taken already.

    Args:
        inside: (n, H0, W0) bool.
        mask_index: (N,) which mask is a candidate's.
        scores: (N,) confidence.
        is_thing: (N,) bool.
        options: the thresholds.
    Returns: segment ids (H0, W0) int32, 0 = void; the kept candidates (n,) int64 in painting order, the k-th of
        them has id k + 1; their visible areas (n,) int64.
    """
    order = scores.argsort(descending=True)
    order = order[scores[order] >= options.score_threshold]
    limits = torch.where(is_thing[order], options.thing_overlap_threshold, options.stuff_overlap_threshold)
    segment_ids = inside.new_zeros(inside.shape[1:], dtype=torch.int32)
    number = segment_ids.new_zeros(())
    kept = torch.zeros_like(order, dtype=torch.bool)
    areas = torch.zeros_like(order)
    # One transfer for all rows; in the loop a GPU waits for nothing, since decisions stay tensors.
    for position, row in enumerate(mask_index[order].tolist()):
        mask = inside[row]
        free = mask & (segment_ids == 0)
        area, visible = mask.sum(), free.sum()
        keep = (visible > 0) & ((area - visible) / area <= limits[position])
        number += keep
        segment_ids = torch.where(free & keep, number, segment_ids)
        kept[position] = keep
        areas[position] = visible
    return segment_ids, order[kept], areas[kept]
