"""Random inputs of multi-scale deformable attention, and what to compare of its results."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from panoptic_segformer.ops import backend

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]


class Inputs(NamedTuple):
    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    sampling_locations: Tensor
    attention_weights: Tensor

    def to(self, dtype: torch.dtype, location_dtype: torch.dtype | None = None) -> Inputs:
        """Cast the three float tensors and cut them off from the graph they came from."""
        location_dtype = location_dtype or dtype
        return Inputs(
            self.value.detach().to(dtype),
            self.spatial_shapes,
            self.sampling_locations.detach().to(location_dtype),
            self.attention_weights.detach().to(location_dtype),
        )


def make_inputs(
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
    """Draw values and weights around 0 and locations from half a picture outside to half outside."""
    generator = torch.Generator().manual_seed(seed)
    length = sum(height * width for height, width in spatial_shapes)
    grid = (batch, queries, heads, len(spatial_shapes), points)
    value = torch.randn(batch, length, heads, channels, dtype=torch.float64, generator=generator)
    locations = torch.rand(*grid, 2, dtype=torch.float64, generator=generator) * 2 - 0.5
    weights = torch.randn(*grid, dtype=torch.float64, generator=generator)
    tensors = [tensor.to(device=device, dtype=dtype) for tensor in (value, locations, weights)]
    return Inputs(tensors[0], list(spatial_shapes), *tensors[1:])


def output_and_gradients(operator, inputs: Inputs, dtype=None) -> dict[str, Tensor]:
    """Run forward and backward with a fixed gradient of the output; cast all results to `dtype`."""
    value, locations, weights = (tensor.detach().requires_grad_() for tensor in inputs if torch.is_tensor(tensor))
    output = operator(value, inputs.spatial_shapes, locations, weights)
    generator = torch.Generator().manual_seed(1)
    grad_output = torch.randn(output.shape, dtype=torch.float64, generator=generator).to(output)
    gradients = torch.autograd.grad(output, (value, locations, weights), grad_output)
    names = ("output", "grad value", "grad locations", "grad weights")
    return {
        name: tensor.detach().to(dtype or tensor.dtype)
        for name, tensor in zip(names, (output, *gradients), strict=True)
    }


# Reasons of a user or a machine to have no compiled operator; with any other one the build is broken.
GOOD_REASONS = ("skipped on request", "no C++ compiler", "CPU kernels only", "without CUDA kernels")


def require_compiled(device: str = "cpu") -> None:
    """Skip a test of the compiled operator where there is none for a good reason, fail where it is broken."""
    chosen = backend(device)
    if chosen.name != "compiled":
        stop = pytest.skip if any(reason in chosen.reason for reason in GOOD_REASONS) else pytest.fail
        stop(f"{chosen.reason}; remedy: {chosen.remedy}")
