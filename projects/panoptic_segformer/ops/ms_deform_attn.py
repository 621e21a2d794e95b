"""Multi-scale deformable attention: the public functions, which run the compiled operators where they can.

Elsewhere they run the pure PyTorch definition and say once why.

Reference: Zhu et al., Deformable DETR, 2021, equation 3.

Shape legend: B images, M heads, D model width, L levels of (height, width) = (Hl, Wl), S = sum Hl*Wl,
Q queries, P points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .autocast import run_in_autocast_dtypes
from .extension import announce_reference, has_kernel
from .inputs import SpatialShapes, check_devices, compute_dtype, list_level_sizes
from .reference import DEFINITIONS
from .registration import refuse_forward_mode


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum bilinear samples of all levels, weighted, per query and head.

    The centre of pixel i in a level of width Wl lies at (i + 0.5) / Wl. What lies outside a level counts as
    zero, and so does a point at a coordinate that is infinite or not a number.

    Dtypes: float64, float32, float16 or bfloat16, summed in float32 or better. Locations and weights share a
    dtype, which is value's own or, beside half precision values, float32 (bfloat16 can't tell neighbouring
    pixels of a wide level apart). Under `torch.autocast` value is cast to autocast's dtype, locations and
    weights to float32. The result has value's dtype. Gradients are of reverse mode and first order only; on
    CUDA they are the same in every run if `torch.use_deterministic_algorithms(True)` is set, on the CPU always.

    Args:
        value: [B, S, M, D/M], the flattened levels one after the other.
        spatial_shapes: L pairs (height, width), or an int64 tensor [L, 2] of them. Pairs are what torch.compile
            and torch.export can trace; a tensor on a CUDA device costs one synchronisation per call.
        sampling_locations: [B, Q, M, L, P, 2], (x, y) as fractions of the level's width and height.
        attention_weights: [B, Q, M, L, P].

    Returns:
        [B, Q, D], the heads one after the other.

    Raises:
        RuntimeError: as torch's own operators do, when shapes, dtypes or devices disagree; the message holds
            the values seen.
    """
    samples = {"sampling_locations": sampling_locations, "attention_weights": attention_weights}
    return _run("ms_deform_attn", value, spatial_shapes, samples)


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Sum bilinear samples of all levels around reference points, weighted by a softmax, per query and head.

    It is `ms_deform_attn` with the steps in front of it inside: locations are reference points plus offsets,
    weights the softmax of the logits over the L*P points of one query and head. Neither is stored, which saves
    memory and passes over it. In pixels of level l, point p of a query lies at

        x * Wl + offset_x - 0.5                      for reference points (x, y): offsets count cells of their level
        (cx + offset_x * w / (2 * P)) * Wl - 0.5     for boxes (cx, cy, w, h): ... or shares of the box

    and likewise along y with Hl. Points outside, precision, gradients and errors are as in `ms_deform_attn`, with
    offsets and logits in the place of locations and weights, except that under `torch.autocast` offsets and logits
    stay as they are where both have autocast's dtype. Reference points are taken in float32, or in float64 beside
    float64 values, whatever their dtype.

    Args:
        value: [B, S, M, D/M], the flattened levels one after the other.
        spatial_shapes: L pairs (height, width), or an int64 tensor [L, 2] of them, as in `ms_deform_attn`.
        reference_points: [B, Q, L, 2] points (x, y) or [B, Q, L, 4] boxes (cx, cy, w, h), as fractions of the
            level's width and height.
        sampling_offsets: [B, Q, M, L, P, 2], (x, y).
        attention_logits: [B, Q, M, L, P].

    Returns:
        [B, Q, D], the heads one after the other.

    Raises:
        RuntimeError: when shapes, dtypes or devices disagree; the message holds the values seen.
    """
    samples = {
        "reference_points": reference_points.to(compute_dtype(value)),
        "sampling_offsets": sampling_offsets,
        "attention_logits": attention_logits,
    }
    return _run("ms_deform_attn_fused", value, spatial_shapes, samples)


def _run(name: str, value: Tensor, spatial_shapes: SpatialShapes, samples: dict[str, Tensor]) -> Tensor:
    """Run the compiled operator where it has a kernel, else its definition."""
    check_devices(value=value, **samples)  # Torch runs the kernel of any one of them.
    level_sizes = list_level_sizes(spatial_shapes)
    device_type = value.device.type
    if has_kernel(device_type):
        refuse_forward_mode(name, value, *samples.values())
        operator = getattr(torch.ops.panoptic_segformer, name)
        return operator(value, [size for pair in level_sizes for size in pair], *samples.values())
    if not torch.compiler.is_compiling():  # A traced function can't log.
        announce_reference(device_type)
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return run_in_autocast_dtypes(name, DEFINITIONS[name], value, level_sizes, *samples.values())
    return DEFINITIONS[name](value, level_sizes, *samples.values())
