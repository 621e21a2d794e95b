"""Dice losses of all layers of a mask decoder: on whole masks, as released, or on points of them in less memory.

Points are chosen as PointRend does: most of them where the mask is least decided, the others anywhere. A layer's masks
exist only while its points are read, `QUERIES_PER_PART` at a time, and the backward pass makes them once more.
References: Kirillov et al., "PointRend", CVPR 2020, section 3.1; Cheng et al., "Masked-attention Mask Transformer for
Universal Image Segmentation", CVPR 2022, section 3.3, whose numbers these are.
Shape legend: N masks, H, W size of the truth, H1, W1 size of the masks, P points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..modeling.mask_attention import QUERIES_PER_PART, AttentionMap
from ..modeling.precision import at_least_float32
from ..modeling.recomputation import recompute
from .losses import dice_losses
from .targets import resize_masks

__all__ = ["mask_dice_sums"]

# Masks are compared at twice their own resolution, a quarter of the picture's (released code).
MASK_TARGET_SCALE = 2
# Of so many times P random points, the least decided become this share of the P.
OVERSAMPLING = 3
UNDECIDED_SHARE = 0.75
# Between inside and outside of a mask.
BOUNDARY = 0.5


def mask_dice_sums(maps: Sequence[AttentionMap], queries: Tensor, targets: Tensor, num_points: int = 0) -> Tensor:
    """Return the dice losses of one picture's masks, summed per layer.

    Args:
        maps: one per layer.
        queries: (N,) which of their queries have a target.
        targets: (N, H, W) bool.
        num_points: P per mask, drawn anew for each layer by torch's global generator; 0 compares whole masks.
    """
    if not len(queries):  # zero, but all ranks keep the same graph
        return torch.stack([at_least_float32(attention.masks(queries)).sum() for attention in maps])
    if num_points:
        return torch.stack([_sum_at_points(attention, queries, targets, num_points) for attention in maps])
    layers = [at_least_float32(attention.masks(queries)[0]) for attention in maps]
    size = tuple(MASK_TARGET_SCALE * side for side in layers[0].shape[-2:])
    truth = resize_masks(targets, size, layers[0].dtype)
    resized = (F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0] for masks in layers)
    return torch.stack([dice_losses(masks, truth).sum() for masks in resized])


def _sum_at_points(attention: AttentionMap, queries: Tensor, targets: Tensor, num_points: int) -> Tensor:
    """Return the summed dice losses of one layer's masks at points; only this sum is kept for the backward pass."""

    def part_sum(own: Tensor, truth: Tensor) -> Tensor:
        masks = at_least_float32(attention.masks(own)[0])
        return dice_at_points(masks, truth, choose_points(masks, num_points)).sum()

    parts = zip(queries.split(QUERIES_PER_PART), targets.split(QUERIES_PER_PART), strict=True)
    return torch.stack([recompute(part_sum, *part) for part in parts]).sum()


@torch.no_grad()
def choose_points(masks: Tensor, num_points: int) -> Tensor:
    """Return P places (x, y) in [0, 1] for each of the masks (N, H1, W1): (N, P, 2).

    PointRend's own function reads zeros beyond the picture, which makes the border of all masks there look undecided.
    """
    num_undecided = int(UNDECIDED_SHARE * num_points)
    candidates = torch.rand(len(masks), OVERSAMPLING * num_points, 2, dtype=masks.dtype, device=masks.device)
    distances = (_values_at(masks, candidates) - BOUNDARY).abs()
    nearest = distances.topk(num_undecided, largest=False).indices
    undecided = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([undecided, torch.rand_like(candidates[:, : num_points - num_undecided])], dim=1)


def dice_at_points(masks: Tensor, targets: Tensor, points: Tensor) -> Tensor:
    """Return 1 - dice (N,) of masks and truth at points; the truth of a point is that of the pixel it lies in.

    Args:
        masks: (N, H1, W1).
        targets: (N, H, W) bool.
        points: (N, P, 2), (x, y) in [0, 1].
    """
    predicted = _values_at(masks, points)
    height, width = targets.shape[-2:]
    columns = (points[..., 0] * width).long().clamp(max=width - 1)
    rows = (points[..., 1] * height).long().clamp(max=height - 1)
    truth = targets.flatten(1).gather(1, rows * width + columns)
    return dice_losses(predicted, truth.to(predicted))


def _values_at(masks: Tensor, points: Tensor) -> Tensor:
    """Return masks (N, H1, W1) at points (N, P, 2): (N, P); beyond the last cells as there, as in resized masks."""
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(masks[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0, :, 0]
