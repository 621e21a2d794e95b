"""Random inputs of multi-scale deformable attention in both forms, and what to compare of its results."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from panoptic_segformer.ops import (
    ms_deform_attn,
    ms_deform_attn_fused,
    ms_deform_attn_fused_reference,
    ms_deform_attn_reference,
)

# The operator on locations and weights, the fused one around points, and around boxes.
FORMS = ["plain", "points", "boxes"]

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


class PlainInputs(NamedTuple):
    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    sampling_locations: Tensor
    attention_weights: Tensor


class FusedInputs(NamedTuple):
    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    reference_points: Tensor
    sampling_offsets: Tensor
    attention_logits: Tensor


Inputs = PlainInputs | FusedInputs
NAMES = {PlainInputs: "ms_deform_attn", FusedInputs: "ms_deform_attn_fused"}


def run(inputs: Inputs) -> Tensor:
    """Call the public function of a form."""
    function = ms_deform_attn if isinstance(inputs, PlainInputs) else ms_deform_attn_fused
    return function(*inputs)


def define(inputs: Inputs) -> Tensor:
    """Call the definition of a form."""
    function = ms_deform_attn_reference if isinstance(inputs, PlainInputs) else ms_deform_attn_fused_reference
    return function(*inputs)


def operator_of(inputs: Inputs, suffix: str = "") -> torch._ops.OpOverload:
    """Return the compiled operator of a form, or its backward."""
    return getattr(torch.ops.panoptic_segformer, NAMES[type(inputs)] + suffix).default


def operator_arguments(inputs: Inputs) -> list:
    """List the arguments as the compiled operator takes them: the level sizes without pairs."""
    return [inputs.value, [size for pair in inputs.spatial_shapes for size in pair], *inputs[2:]]


def tensor_names(inputs: Inputs) -> list[str]:
    """Name the inputs that have gradients."""
    return [name for name in inputs._fields if name != "spatial_shapes"]


def replace_tensors(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Change all tensors alike."""
    return inputs._replace(**{name: change(getattr(inputs, name)) for name in tensor_names(inputs)})


def cast(inputs: Inputs, dtype: torch.dtype, sample_dtype: torch.dtype | None = None) -> Inputs:
    """Cast value to `dtype` and what samples it to `sample_dtype`; reference points are float32 at least."""
    dtypes = dict.fromkeys(tensor_names(inputs), sample_dtype or dtype)
    dtypes |= {"value": dtype, "reference_points": torch.promote_types(dtype, torch.float32)}
    return inputs._replace(**{name: getattr(inputs, name).detach().to(dtypes[name]) for name in tensor_names(inputs)})


def make_inputs(
    form="plain",
    spatial_shapes=((5, 7), (3, 2), (1, 1)),
    batch=2,
    heads=2,
    channels=8,
    queries=6,
    points=3,
    dtype=torch.float64,
    device="cpu",
    seed=0,
) -> Inputs:
    """Draw values and weights around 0 and points from about half a picture outside to half outside."""
    generator = torch.Generator().manual_seed(seed)
    length = sum(height * width for height, width in spatial_shapes)
    levels = len(spatial_shapes)
    grid = (batch, queries, heads, levels, points)

    def uniform(low, high, *shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator) * (high - low) + low

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    value = normal(batch, length, heads, channels)
    shapes = list(spatial_shapes)
    if form == "plain":
        inputs = PlainInputs(value, shapes, uniform(-0.5, 1.5, *grid, 2), normal(*grid))
    elif form == "points":
        offsets = normal(*grid, 2) * max((max(pair) for pair in shapes), default=1) / 4
        inputs = FusedInputs(value, shapes, uniform(-0.2, 1.2, batch, queries, levels, 2), offsets, normal(*grid))
    else:
        boxes = torch.cat(
            [uniform(-0.1, 1.1, batch, queries, levels, 2), uniform(0.1, 0.8, batch, queries, levels, 2)], -1
        )
        inputs = FusedInputs(value, shapes, boxes, normal(*grid, 2) * points, normal(*grid))
    return cast(replace_tensors(inputs, lambda tensor: tensor.to(device)), dtype)


def output_and_gradients(operator: Callable[[Inputs], Tensor], inputs: Inputs, dtype=None) -> dict[str, Tensor]:
    """Run forward and backward with a fixed gradient of the output; cast all results to `dtype`."""
    inputs = replace_tensors(inputs, lambda tensor: tensor.detach().requires_grad_())
    output = operator(inputs)
    generator = torch.Generator().manual_seed(1)
    grad_output = torch.randn(output.shape, dtype=torch.float64, generator=generator).to(output)
    names = tensor_names(inputs)
    gradients = torch.autograd.grad(output, [getattr(inputs, name) for name in names], grad_output)
    results = {"output": output} | {f"grad {name}": grad for name, grad in zip(names, gradients, strict=True)}
    return {name: tensor.detach().to(dtype or tensor.dtype) for name, tensor in results.items()}
