"""What torch needs to know of the compiled operators beside their kernels: fake kernels, autograd, autocast.

C++ (folder csrc) registers the schemas and the kernels. Those of attention are two operators, each with its backward:

    name(Tensor value, SymInt[] spatial_shapes, *samples) -> Tensor
    name_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, *samples, bool deterministic) -> gradients

where spatial_shapes is h0, w0, h1, w1, ... and samples are all other tensors, for whose every element and those of
value there is a gradient. Those of mask merging have neither gradients nor autocast, see mask_merging.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .autocast import run_in_autocast_dtypes
from .extension import is_loaded
from .reference import DEFINITIONS


def refuse_forward_mode(name: str, *tensors: Tensor) -> None:
    """Raise where a tensor has a tangent: torch would take those of the result for zero."""
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(
            f"{name} has gradients of reverse mode only: use backward instead of forward_ad and jvp, or "
            f"{name}_reference"
        )


def _fake_forward(value: Tensor, spatial_shapes: Sequence[int], *samples: Tensor) -> Tensor:
    """Give the result's shape, for tracing; the second dimension of all samples counts the queries."""
    return value.new_empty(value.shape[0], samples[0].shape[1], value.shape[2] * value.shape[3])


def _fake_backward(
    grad_output: Tensor, value: Tensor, spatial_shapes: Sequence[int], *samples_and_mode: Any
) -> tuple[Tensor, ...]:
    """Give the shapes of the gradients, for tracing."""
    *samples, _ = samples_and_mode
    return tuple(tensor.new_empty(tensor.shape) for tensor in (value, *samples))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the inputs: samples are computed again in the backward pass, which costs less than storing them."""
    value, ctx.spatial_shapes, *samples = inputs
    ctx.save_for_backward(value, *samples)


def _backward(name: str, ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    """Give the gradients of value and of the samples."""
    operator = getattr(torch.ops.panoptic_segformer, f"{name}_backward")
    value, *samples = ctx.saved_tensors
    deterministic = torch.are_deterministic_algorithms_enabled()
    grad_value, *grad_samples = operator(grad_output, value, ctx.spatial_shapes, *samples, deterministic)
    return grad_value, None, *grad_samples


def _refuse_second_order(name: str, ctx: Any, *grads: Tensor) -> None:
    """Raise: without this torch would take the second-order terms for zero."""
    raise RuntimeError(f"{name} has gradients of first order only: call it without create_graph=True")


def _fake_statistics(masks: Tensor, size: Sequence[int], threshold: float) -> tuple[Tensor, Tensor]:
    """Give the shapes of areas and sums, for tracing."""
    return masks.new_empty(masks.shape[0], dtype=torch.int64), masks.new_empty(masks.shape[0])


def _fake_above(masks: Tensor, size: Sequence[int], threshold: float) -> Tensor:
    """Give the shape of masks at the size of the result, for tracing."""
    return masks.new_empty((masks.shape[0], *size), dtype=torch.bool)


def _fake_paint(
    masks: Tensor, rows: Tensor, limits: Tensor, size: Sequence[int], threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the shapes of segment ids, kept candidates and areas, for tracing."""
    kept = masks.new_empty(rows.shape, dtype=torch.bool)
    return masks.new_empty(size, dtype=torch.int32), kept, masks.new_empty(rows.shape, dtype=torch.int64)


MASK_FAKES = {"mask_statistics": _fake_statistics, "masks_above": _fake_above, "paint_masks": _fake_paint}


def _register(library: torch.library.Library, name: str) -> None:
    """Give a compiled operator its fake kernels, autograd and autocast."""
    forward = f"panoptic_segformer::{name}"
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake(f"{forward}_backward", _fake_backward)
    torch.library.register_autograd(forward, functools.partial(_backward, name), setup_context=_setup_context)
    torch.library.register_autograd(f"{forward}_backward", functools.partial(_refuse_second_order, name))
    autocast = functools.partial(run_in_autocast_dtypes, name, getattr(torch.ops.panoptic_segformer, name))
    for key in ("AutocastCPU", "AutocastCUDA"):
        library.impl(name, autocast, key)


if is_loaded():
    _library = torch.library.Library("panoptic_segformer", "IMPL")  # Registrations live as long as it does.
    for _name in DEFINITIONS:
        _register(_library, _name)
    for _name, _fake in MASK_FAKES.items():
        torch.library.register_fake(f"panoptic_segformer::{_name}", _fake)
