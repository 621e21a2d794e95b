"""Multi-scale deformable attention in pure PyTorch, by grid_sample.

It is the definition: the truth that tests hold the compiled operators to, what runs where those could not be
built, and what exporters get in their place. It is slow and keeps one [B*M, D/M, Q, P] tensor per level for
the backward pass.

Reference: Zhu et al., Deformable DETR, 2021, equation 3 (the sum over sampled points) and appendix A.4 (offsets
in units of a box).

Shape legend: B images, M heads, D model width, L levels of (height, width) = (Hl, Wl), S = sum Hl*Wl,
Q queries, P points.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import (
    LevelSizes,
    SpatialShapes,
    check_devices,
    check_inputs,
    check_reference_points,
    compute_dtype,
    list_level_sizes,
)

# In grid_sample's coordinates, where the picture spans [-1, 1]. A level of one pixel reaches furthest: it is
# read up to +-2, so anything at 3 is outside every level.
OUTSIDE = 3.0


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum bilinear samples of all levels, weighted, per query and head.

    Arguments, result and errors are those of `panoptic_segformer.ops.ms_deform_attn`; half precision inputs
    are computed in float32 and the result is rounded once.
    """
    level_sizes = list_level_sizes(spatial_shapes)
    samples = {"sampling_locations": sampling_locations, "attention_weights": attention_weights}
    check_devices(value=value, **samples)
    check_inputs(value, level_sizes, **samples)
    dtype = compute_dtype(value)
    return _sum_samples(value, level_sizes, sampling_locations.to(dtype), attention_weights.to(dtype))


def ms_deform_attn_fused_reference(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Sum bilinear samples of all levels around reference points, weighted by a softmax, per query and head.

    Arguments, result and errors are those of `panoptic_segformer.ops.ms_deform_attn_fused`; half precision inputs
    are computed in float32 and the result is rounded once.
    """
    level_sizes = list_level_sizes(spatial_shapes)
    samples = {"sampling_offsets": sampling_offsets, "attention_logits": attention_logits}
    check_devices(value=value, reference_points=reference_points, **samples)
    check_inputs(value, level_sizes, **samples)
    check_reference_points(reference_points, value, sampling_offsets)
    dtype = compute_dtype(value)
    locations = _locate(level_sizes, reference_points.to(dtype), sampling_offsets.to(dtype))
    weights = attention_logits.to(dtype).flatten(-2).softmax(-1).unflatten(-1, attention_logits.shape[-2:])
    return _sum_samples(value, level_sizes, locations, weights)


# By the names of the operators that they define.
DEFINITIONS = {
    "ms_deform_attn": ms_deform_attn_reference,
    "ms_deform_attn_fused": ms_deform_attn_fused_reference,
}


def _locate(level_sizes: LevelSizes, reference_points: Tensor, sampling_offsets: Tensor) -> Tensor:
    """Turn reference points (B, Q, L, 2 or 4) and offsets into locations, both (B, Q, M, L, P, 2)."""
    centres = reference_points[:, :, None, :, None, :2]
    if reference_points.shape[-1] == 2:  # Offsets count cells of their level ...
        # torch.tensor can't be traced in a decomposition.
        sizes = [centres.new_full((), size) for height, width in level_sizes for size in (width, height)]
        cells = torch.stack(sizes).view(-1, 1, 2) if sizes else centres.new_ones(0, 1, 2)
        return centres + sampling_offsets / cells
    # ... or shares of the box, whose edge lies P shares from its centre.
    steps = reference_points[:, :, None, :, None, 2:] * (0.5 / max(sampling_offsets.shape[4], 1))
    # A point at infinity has gradient 0, and 0 * infinity is not a number: keep it out of the product.
    near = (sampling_offsets * steps).isfinite()
    return (centres + sampling_offsets.where(near, 0) * steps.where(near, 0)).where(near, math.nan)


def _sum_samples(value: Tensor, level_sizes: LevelSizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sum the samples of value at locations (B, Q, M, L, P, 2), weighted by (B, Q, M, L, P): (B, Q, D)."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    dtype = locations.dtype
    if min(value.numel(), locations.numel()) == 0:  # grid_sample refuses empty tensors.
        nothing = sum(tensor[:0].sum() for tensor in (value, locations, weights))  # 0, but with gradients.
        return value.new_zeros(batch, queries, heads * channels) + nothing.to(value.dtype)

    # Weights and coordinates by head: [B*M, Q, L, P] and [B*M, Q, L, P, 2].
    weights = weights.transpose(1, 2).flatten(0, 1)
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    grid = grid.nan_to_num(nan=OUTSIDE).clamp(-OUTSIDE, OUTSIDE)
    maps = value.to(dtype).split([height * width for height, width in level_sizes], dim=1)
    output = value.new_zeros(batch * heads, channels, queries, dtype=dtype)
    for level, (height, width) in enumerate(level_sizes):
        level_map = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        samples = F.grid_sample(  # [B*M, D/M, Q, P]
            level_map, grid[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False
        )
        output = output + (samples * weights[:, None, :, level]).sum(-1)
    output = output.view(batch, heads * channels, queries).transpose(1, 2)
    return output.to(value.dtype).contiguous()
