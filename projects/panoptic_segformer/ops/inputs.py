"""What the operators accept: level sizes in every form that callers have, and errors that hold the values seen.

The compiled operators check their arguments in C++, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Pairs (height, width), one per level, or an int64 tensor [L, 2] of them.
SpatialShapes = Tensor | Sequence[tuple[int, int]]
LevelSizes = list[tuple[int, int]]

# Of a level; beyond it float32 can't tell its columns apart.
MAX_SIDE = 2**24


def list_level_sizes(spatial_shapes: SpatialShapes) -> LevelSizes:
    """List (height, width) of every level; numbers that torch traces stay symbols."""
    if not isinstance(spatial_shapes, Tensor):
        try:
            pairs = [(height, width) for height, width in spatial_shapes]
        except (TypeError, ValueError) as error:
            raise RuntimeError(
                f"spatial_shapes must hold one pair (height, width) per level, got {spatial_shapes}"
            ) from error
        # torch.jit.trace has tensors for numbers; in its graphs they become constants.
        return [(int(height), int(width)) for height, width in pairs] if torch.jit.is_tracing() else pairs
    if spatial_shapes.dtype != torch.int64 or spatial_shapes.ndim != 2 or spatial_shapes.shape[1] != 2:
        raise RuntimeError(
            f"spatial_shapes must be int64 [levels, 2] with rows (height, width), got {spatial_shapes.dtype} "
            f"of shape {list(spatial_shapes.shape)}"
        )
    return [(height, width) for height, width in spatial_shapes.tolist()]


def compute_dtype(value: Tensor) -> torch.dtype:
    """Return the dtype of sums and of positions: float64 for float64 values, else float32."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def check_devices(**tensors: Tensor) -> None:
    """Raise where the tensors, given by their names, are not all on one device."""
    devices = [tensor.device for tensor in tensors.values()]
    if any(device != devices[0] for device in devices):
        raise RuntimeError(f"{_enumerate(tensors)} must be on one device, got {_enumerate(devices)}")


def check_inputs(value: Tensor, level_sizes: LevelSizes, **samples: Tensor) -> None:
    """Raise where the inputs that both operators share contradict each other.

    Args:
        value: [B, S, M, C].
        level_sizes: (height, width) of L levels.
        samples: two tensors by their names, the places [B, Q, M, L, P, 2] and what each counts [B, Q, M, L, P].
    """
    (places_name, places), (counts_name, counts) = samples.items()
    if value.ndim != 4:
        raise RuntimeError(f"value must be [batch, length, heads, channels], got shape {list(value.shape)}")
    if places.ndim != 6:
        raise RuntimeError(
            f"{places_name} must be [batch, queries, heads, levels, points, 2], got shape {list(places.shape)}"
        )
    _check_levels(value, level_sizes)
    batch, _, heads, _ = value.shape
    expected = [batch, places.shape[1], heads, len(level_sizes), places.shape[4]]
    fits = f"value {list(value.shape)} and {len(level_sizes)} levels"
    _check_shape(counts_name, counts, expected, fits)
    _check_shape(places_name, places, [*expected, 2], fits)
    known = value.is_floating_point() and places.dtype in (value.dtype, compute_dtype(value))
    if not known or places.dtype != counts.dtype:
        raise RuntimeError(
            f"{places_name} and {counts_name} must share one dtype, that of value or, for half precision values, "
            f"float32; got value {value.dtype}, {places_name} {places.dtype}, {counts_name} {counts.dtype}"
        )


def check_reference_points(reference_points: Tensor, value: Tensor, sampling_offsets: Tensor) -> None:
    """Raise where the reference points, two or four numbers each, do not fit the inputs that both operators share."""
    batch, queries, _, levels, _, _ = sampling_offsets.shape
    numbers = 4 if reference_points.shape[-1:] == (4,) else 2
    fits = f"value {list(value.shape)} and {levels} levels"
    _check_shape("reference_points", reference_points, [batch, queries, levels, numbers], fits)


def _check_levels(value: Tensor, level_sizes: LevelSizes) -> None:
    """Raise where value [B, S, M, C] is not made of these levels."""
    if not all(1 <= side <= MAX_SIDE for pair in level_sizes for side in pair):
        raise RuntimeError(
            f"every level needs a height and width of at least 1 and at most {MAX_SIDE}, got {level_sizes}"
        )
    length = value.shape[1]
    if sum(height * width for height, width in level_sizes) != length:
        raise RuntimeError(
            f"spatial_shapes {level_sizes} (height, width) do not sum to the length of value, {length}: "
            "give the sizes of the maps that value was flattened from, in the same order"
        )


def _check_shape(name: str, tensor: Tensor, expected: list[int], fits: str) -> None:
    """Raise where a tensor does not have the shape that the arguments named by `fits` ask for."""
    if list(tensor.shape) != expected:
        raise RuntimeError(f"{name} must have shape {expected} to fit {fits}, got {list(tensor.shape)}")


def _enumerate(names: Sequence[object]) -> str:
    """Write "a, b and c"."""
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}"
