"""Multi-scale deformable attention in pure PyTorch, by grid_sample.

It is the definition: the truth that tests hold the compiled operator to, and what runs where that operator
could not be built. It is slow and keeps one [B*M, D/M, Q, P] tensor per level for the backward pass.

Reference: Zhu et al., Deformable DETR, 2021, equation 3 (the sum over sampled points; offsets and weights
come from the module around the operator).

Shape legend: B images, M heads, D model width, L levels of (height, width) = (Hl, Wl), S = sum Hl*Wl,
Q queries, P points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Pairs (height, width), one per level, or an int64 tensor [L, 2] of them.
SpatialShapes = Tensor | Sequence[tuple[int, int]]

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
    level_sizes = _level_sizes(spatial_shapes)
    _check_shapes(value, level_sizes, sampling_locations, attention_weights)
    check_devices(value, sampling_locations, attention_weights)
    _check_types(value, sampling_locations, attention_weights)
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    dtype = torch.promote_types(value.dtype, torch.float32)
    output = value.new_zeros(batch * heads, channels, queries, dtype=dtype)
    if min(value.numel(), sampling_locations.numel()) == 0:  # grid_sample refuses empty tensors.
        tensors = (value, sampling_locations, attention_weights)
        nothing = sum(tensor[:0].sum() for tensor in tensors)  # 0, but with gradients.
        return value.new_zeros(batch, queries, heads * channels) + nothing.to(value.dtype)

    # Weights and coordinates by head: [B*M, Q, L, P] and [B*M, Q, L, P, 2].
    weights = attention_weights.to(dtype).transpose(1, 2).flatten(0, 1)
    grid = (2 * sampling_locations.to(dtype) - 1).transpose(1, 2).flatten(0, 1)
    grid = grid.nan_to_num(nan=OUTSIDE).clamp(-OUTSIDE, OUTSIDE)
    maps = value.to(dtype).split([height * width for height, width in level_sizes], dim=1)
    for level, (height, width) in enumerate(level_sizes):
        level_map = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        samples = F.grid_sample(  # [B*M, D/M, Q, P]
            level_map, grid[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False
        )
        output = output + (samples * weights[:, None, :, level]).sum(-1)
    output = output.view(batch, heads * channels, queries).transpose(1, 2)
    return output.to(value.dtype).contiguous()


def _level_sizes(spatial_shapes: SpatialShapes) -> list[tuple[int, int]]:
    """List (height, width) of every level."""
    if not isinstance(spatial_shapes, Tensor):
        return [(int(height), int(width)) for height, width in spatial_shapes]
    if spatial_shapes.dtype != torch.int64 or spatial_shapes.ndim != 2 or spatial_shapes.shape[1] != 2:
        raise RuntimeError(
            f"spatial_shapes must be int64 [levels, 2] with rows (height, width), got {spatial_shapes.dtype} "
            f"of shape {list(spatial_shapes.shape)}"
        )
    return [(height, width) for height, width in spatial_shapes.tolist()]


def _check_shapes(
    value: Tensor, level_sizes: list[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> None:
    """Raise where a shape contradicts another one."""
    if value.ndim != 4:
        raise RuntimeError(f"value must be [batch, length, heads, channels], got shape {list(value.shape)}")
    if sampling_locations.ndim != 6:
        raise RuntimeError(
            "sampling_locations must be [batch, queries, heads, levels, points, 2], "
            f"got shape {list(sampling_locations.shape)}"
        )
    batch, length, heads, _ = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    expected = [batch, queries, heads, len(level_sizes), points]
    if list(sampling_locations.shape) != [*expected, 2]:
        raise RuntimeError(
            f"sampling_locations must have shape {[*expected, 2]} to fit value {list(value.shape)} and "
            f"{len(level_sizes)} levels, got {list(sampling_locations.shape)}"
        )
    if list(attention_weights.shape) != expected:
        raise RuntimeError(
            f"attention_weights must have shape {expected} to fit sampling_locations "
            f"{list(sampling_locations.shape)}, got {list(attention_weights.shape)}"
        )
    if any(height < 1 or width < 1 for height, width in level_sizes):
        raise RuntimeError(f"every level needs a height and width of at least 1, got {level_sizes}")
    if sum(height * width for height, width in level_sizes) != length:
        raise RuntimeError(
            f"spatial_shapes {level_sizes} (height, width) do not sum to the length of value, {length}: "
            "give the sizes of the maps that value was flattened from, in the same order"
        )


def check_devices(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor) -> None:
    """Raise where the tensors are not all on one device."""
    if not value.device == sampling_locations.device == attention_weights.device:
        raise RuntimeError(
            "value, sampling_locations and attention_weights must be on one device, got "
            f"{value.device}, {sampling_locations.device} and {attention_weights.device}"
        )


def _check_types(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor) -> None:
    """Raise where dtypes do not go together."""
    dtypes = (value.dtype, sampling_locations.dtype, attention_weights.dtype)
    allowed = {value.dtype, torch.promote_types(value.dtype, torch.float32)}
    if not value.is_floating_point() or dtypes[1] != dtypes[2] or dtypes[1] not in allowed:
        raise RuntimeError(
            "sampling_locations and attention_weights must share one dtype, that of value or, for half "
            f"precision values, float32; got value {dtypes[0]}, sampling_locations {dtypes[1]}, "
            f"attention_weights {dtypes[2]}"
        )
