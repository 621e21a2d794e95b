"""Multi-scale deformable attention: the public function and the Python side of the compiled operator.

The C++ extension `panoptic_segformer._C` (folder csrc) registers the operator and its kernels; this module
adds what torch needs beside them (fake kernels, autograd, autocast) and falls back to the pure PyTorch
reference, with one message that says why, where the extension is missing or has no kernel for a device.

Reference: Zhu et al., Deformable DETR, 2021, equation 3.

Shape legend: B images, M heads, D model width, L levels of (height, width) = (Hl, Wl), S = sum Hl*Wl,
Q queries, P points.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .reference import ms_deform_attn_reference

logger = logging.getLogger(__name__)

EXTENSION = "panoptic_segformer._C"
# Written by setup.py when it could not build the extension: the cause, then the remedy, one line each.
BUILD_FAILURE_FILE = Path(__file__).parents[1] / "_build_failure.txt"
REBUILD = "pip install --no-build-isolation -e ."


@dataclass(frozen=True)
class Backend:
    """Which implementation of the operator runs, and why.

    Attributes:
        name: "compiled" or "reference".
        reason: one sentence, why this one.
        remedy: what to do to get the compiled operator; empty where it runs.
    """

    name: str
    reason: str
    remedy: str = ""


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum bilinear samples of all levels, weighted, per query and head.

    The centre of pixel i in a level of width Wl lies at (i + 0.5) / Wl. What lies outside a level counts as
    zero, and so does a point at a coordinate that is infinite or not a number.

    Dtypes: float64, float32, float16 or bfloat16, summed in float32 or better. Locations and weights share a
    dtype, which is value's own or, beside half precision values, float32 (bfloat16 can't tell neighbouring
    pixels of a wide level apart). Under `torch.autocast` value is cast to autocast's dtype, locations and
    weights to float32. The result has value's dtype. Gradients are of first order only.

    Args:
        value: [B, S, M, D/M], the flattened levels one after the other.
        spatial_shapes: L pairs (height, width), or an int64 tensor [L, 2] of them. Pairs and CPU tensors cost
            no synchronisation with a CUDA device; a tensor on that device costs one per call.
        sampling_locations: [B, Q, M, L, P, 2], (x, y) as fractions of the level's width and height.
        attention_weights: [B, Q, M, L, P].

    Returns:
        [B, Q, D], the heads one after the other.

    Raises:
        RuntimeError: as torch's own operators do, when shapes, dtypes or devices disagree; the message holds
            the values seen.
    """
    choice = backend(value.device.type)
    if choice.name == "compiled":
        shapes = _as_cpu_tensor(spatial_shapes)
        return torch.ops.panoptic_segformer.ms_deform_attn(value, shapes, sampling_locations, attention_weights)
    _announce(value.device.type)
    if torch.is_autocast_enabled(value.device.type):
        return _call_autocast(ms_deform_attn_reference, value, spatial_shapes, sampling_locations, attention_weights)
    return ms_deform_attn_reference(value, spatial_shapes, sampling_locations, attention_weights)


@functools.cache
def backend(device_type: str = "cpu") -> Backend:
    """Tell which implementation serves tensors of a device type ("cpu", "cuda", ...), and why."""
    if _extension is None:
        return _missing
    if device_type == "cpu" or (device_type == "cuda" and _extension.WITH_CUDA):
        kernels = "CPU and CUDA" if _extension.WITH_CUDA else "CPU"
        return Backend("compiled", f"{EXTENSION} is loaded, with {kernels} kernels")
    if device_type == "cuda":
        remedy = f"install a CUDA toolkit of torch's CUDA version, then run FORCE_CUDA=1 {REBUILD}"
        return Backend("reference", f"{EXTENSION} was built without CUDA", remedy)
    return Backend("reference", f"{EXTENSION} has no {device_type} kernels", "use a cpu or cuda device")


@functools.cache
def _announce(device_type: str) -> None:
    """Say once per device type that the slow path runs."""
    choice = backend(device_type)
    logger.warning(
        "ms_deform_attn runs its slower reference for %s tensors: %s. To change that: %s.",
        device_type, choice.reason, choice.remedy,
    )  # fmt: skip


def _as_cpu_tensor(spatial_shapes: Tensor | Sequence[tuple[int, int]]) -> Tensor:
    """Turn the level sizes into what the operator reads without a device synchronisation: int64 [L, 2]."""
    if isinstance(spatial_shapes, Tensor):
        return spatial_shapes.cpu()
    return torch.tensor([tuple(pair) for pair in spatial_shapes], dtype=torch.int64, device="cpu")


def _call_autocast(
    run: Callable[..., Tensor],
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Call `run` with autocast's dtypes, autocast itself switched off; float64 stays as it is."""
    device_type = value.device.type
    if value.dtype != torch.float64:
        value = value.to(torch.get_autocast_dtype(device_type))
        sampling_locations, attention_weights = sampling_locations.float(), attention_weights.float()
    with torch.autocast(device_type, enabled=False):
        return run(value, spatial_shapes, sampling_locations, attention_weights)


def _load_extension() -> tuple[ModuleType | None, Backend]:
    """Import the extension, or tell why there is none."""
    try:
        return importlib.import_module(EXTENSION), Backend("compiled", "")
    except ModuleNotFoundError:
        if BUILD_FAILURE_FILE.is_file():
            reason, remedy = BUILD_FAILURE_FILE.read_text(encoding="utf-8").splitlines()[:2]
            return None, Backend("reference", reason, remedy)
        return None, Backend("reference", f"{EXTENSION} was never built", f"run {REBUILD}")
    except ImportError as error:
        reason = f"{EXTENSION} cannot be loaded by torch {torch.__version__} ({error})"
        return None, Backend("reference", reason, f"rebuild it for this torch: {REBUILD}")


def _register() -> None:
    """Give the operator its fake kernels, autograd and autocast."""
    namespace = torch.ops.panoptic_segformer

    @torch.library.register_fake("panoptic_segformer::ms_deform_attn")
    def _(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    @torch.library.register_fake("panoptic_segformer::ms_deform_attn_backward")
    def _(
        grad_output: Tensor, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (value, locations, weights))

    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        grads = namespace.ms_deform_attn_backward(grad_output, *ctx.saved_tensors)
        return grads[0], None, grads[1], grads[2]

    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    torch.library.register_autograd("panoptic_segformer::ms_deform_attn", backward, setup_context=setup_context)
    for key in ("AutocastCPU", "AutocastCUDA"):
        _library.impl("ms_deform_attn", functools.partial(_call_autocast, namespace.ms_deform_attn), key)


_extension, _missing = _load_extension()
if _extension is not None:
    _library = torch.library.Library("panoptic_segformer", "IMPL")  # Registrations end with this object.
    _register()
