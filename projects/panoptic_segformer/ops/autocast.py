"""What torch.autocast does to the inputs of the operators.

torch.library.register_autocast would cast all of them to autocast's dtype, and bfloat16 can't tell neighbouring
pixels of a wide level apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def run_in_autocast_dtypes(
    name: str, run: Callable[..., Tensor], value: Tensor, spatial_shapes: Any, *samples: Tensor
) -> Tensor:
    """Call `run` with the dtypes that autocast gives to an operator's inputs, and with autocast switched off.

    float64 stays as it is.
    """
    device_type = value.device.type
    if value.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
        value, samples = value.to(dtype), CASTS[name](dtype, *samples)
    with torch.autocast(device_type, enabled=False):
        return run(value, spatial_shapes, *samples)


def _cast_samples(dtype: torch.dtype, locations: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    return locations.float(), weights.float()


def _cast_fused_samples(dtype: torch.dtype, points: Tensor, offsets: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """Keep offsets and logits as linear layers give them: a cast would restore nothing, and offsets are short."""
    if offsets.dtype == logits.dtype == dtype:
        return points.float(), offsets, logits
    return points.float(), offsets.float(), logits.float()


CASTS = {"ms_deform_attn": _cast_samples, "ms_deform_attn_fused": _cast_fused_samples}
