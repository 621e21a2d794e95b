"""Masks at the size of the result, without storing them there: what merging asks of them.

The public functions run the compiled operators on the CPU, where a mask costs a few rows of memory, and the pure
PyTorch definitions elsewhere. Masks are upsampled as by F.interpolate(mode="bilinear", align_corners=False). A pixel
that is not a number is above no threshold. There are no gradients: results are detached.

Shape legend: N candidates, n masks (several candidates may share one), h, w mask size, H0, W0 size of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .extension import is_loaded
from .inputs import MAX_SIDE, check_devices
from .mask_merging_reference import MASK_DEFINITIONS


@torch.no_grad()
def mask_statistics(masks: Tensor, size: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor]:
    """Count the pixels of upsampled masks above a threshold, and sum their values.

    Args:
        masks: (n, h, w), float32 or float64.
        size: (H0, W0) to upsample to, pixels.
        threshold: what a pixel has to exceed.
    Returns: areas (n,) int64, pixels; sums (n,) of the dtype of masks.
    Raises: RuntimeError when shapes or dtypes don't fit; the message holds the values seen.
    """
    _check_masks(masks, size)
    return _run("mask_statistics", masks, size, threshold)


@torch.no_grad()
def masks_above(masks: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Tell where upsampled masks exceed a threshold.

    Args:
        masks: (n, h, w), float32 or float64.
        size: (H0, W0) to upsample to, pixels.
        threshold: what a pixel has to exceed.
    Returns: (n, H0, W0) bool.
    Raises: RuntimeError when shapes or dtypes don't fit; the message holds the values seen.
    """
    _check_masks(masks, size)
    return _run("masks_above", masks, size, threshold)


@torch.no_grad()
def paint_masks(
    masks: Tensor, rows: Tensor, limits: Tensor, size: tuple[int, int], threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Paint the masks of candidates one after the other, each on what those before it left free.

    A candidate is dropped if nothing of its mask is free, or a larger share of it than its limit is taken.

    Args:
        masks: (n, h, w), float32 or float64.
        rows: (N,) int64, which mask is a candidate's, in painting order.
        limits: (N,) float, the share of a candidate's pixels that may be taken; compared in float32.
        size: (H0, W0) to upsample to, pixels.
        threshold: what a pixel has to exceed to be of a mask.
    Returns: segment ids (H0, W0) int32, 0 = free, k = the k-th candidate kept; which candidates were kept (N,) bool;
        the visible area of every candidate, kept or not, (N,) int64, pixels.
    Raises: RuntimeError when shapes, dtypes or devices don't fit, or rows do not lie in [0, n); the message holds
        the values seen.
    """
    check_devices(masks=masks, rows=rows, limits=limits)
    _check_masks(masks, size)
    if rows.ndim != 1 or rows.dtype != torch.int64 or limits.shape != rows.shape or not limits.is_floating_point():
        raise RuntimeError(
            f"rows must be int64 [candidates] and limits floating point of the same length, got {rows.dtype} "
            f"{list(rows.shape)} and {limits.dtype} {list(limits.shape)}"
        )
    return _run("paint_masks", masks, rows, limits.float(), size, threshold)


def _check_masks(masks: Tensor, size: tuple[int, int]) -> None:
    """Raise where masks or the size to bring them to are not what all functions here take."""
    if masks.ndim != 3 or not all(1 <= side <= MAX_SIDE for side in masks.shape[1:]):
        raise RuntimeError(
            f"masks must be [masks, height, width] with sides of at least 1 and at most {MAX_SIDE}, got shape "
            f"{list(masks.shape)}"
        )
    if masks.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f"masks must be float32 or float64, got {masks.dtype}: convert them with .float()")
    if len(size) != 2 or not all(1 <= side <= MAX_SIDE for side in size):
        raise RuntimeError(f"size must be (height, width) of at least 1 and at most {MAX_SIDE}, got {size}")


def _run(name: str, masks: Tensor, *arguments: object) -> object:
    """Run the compiled operator on the CPU where it is there, else the definition; torch.jit can't trace the first."""
    if is_loaded() and masks.device.type in ("cpu", "meta") and not torch.jit.is_tracing():
        return getattr(torch.ops.panoptic_segformer, name)(masks, *arguments)
    return MASK_DEFINITIONS[name](masks, *arguments)
