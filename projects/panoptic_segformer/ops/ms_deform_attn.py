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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .reference import SpatialShapes, check_devices, ms_deform_attn_reference

logger = logging.getLogger(__name__)

EXTENSION = "panoptic_segformer._C"
# Written by setup.py when it could not build the extension, or not with the CUDA kernels asked for: the cause,
# then the remedy, one line each.
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
    weights to float32. The result has value's dtype. Gradients are of reverse mode and first order only.

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
    device_type = value.device.type
    check_devices(value, sampling_locations, attention_weights)  # Torch runs the kernel of any one of them.
    if _has_kernel(device_type):
        _refuse_forward_mode(value, sampling_locations, attention_weights)
        shapes = _as_cpu_tensor(spatial_shapes)
        return torch.ops.panoptic_segformer.ms_deform_attn(value, shapes, sampling_locations, attention_weights)
    if not torch.compiler.is_compiling():  # A traced function can't log.
        _announce(device_type)
    arguments = (value, spatial_shapes, sampling_locations, attention_weights)
    if torch.is_autocast_enabled(device_type):
        return _call_autocast(ms_deform_attn_reference, *arguments)
    return ms_deform_attn_reference(*arguments)


def backend(device_type: str = "cpu") -> Backend:
    """Tell which implementation serves tensors of a device type ("cpu", "cuda", ...), and why."""
    if isinstance(_extension, Backend):
        return _extension
    kernels = "CPU and CUDA" if _extension.WITH_CUDA else "CPU"
    if _has_kernel(device_type):
        return Backend("compiled", f"{EXTENSION} is loaded, with {kernels} kernels")
    reason = f"{EXTENSION} was built with {kernels} kernels only"
    if device_type != "cuda":
        return Backend("reference", reason, "use a cpu or cuda device")
    return _build_failure() or Backend(
        "reference", reason, f"install the CUDA toolkit of torch's version, then FORCE_CUDA=1 {REBUILD}"
    )


def _has_kernel(device_type: str) -> bool:
    """Return whether the compiled operator serves tensors of a device type."""
    if isinstance(_extension, Backend):
        return False
    return device_type == "cpu" or (device_type == "cuda" and bool(_extension.WITH_CUDA))


@functools.cache
def _announce(device_type: str) -> None:
    """Say once per device type that the slow path runs."""
    choice = backend(device_type)
    logger.warning(
        "ms_deform_attn runs its slower reference on %s: %s. Remedy: %s",
        device_type, choice.reason, choice.remedy,
    )  # fmt: skip


def _as_cpu_tensor(spatial_shapes: SpatialShapes) -> Tensor:
    """Turn the level sizes into what the operator reads without a device synchronisation: int64 [L, 2]."""
    if isinstance(spatial_shapes, Tensor):
        return spatial_shapes.cpu()
    pairs = [tuple(pair) for pair in spatial_shapes]
    return torch.tensor(pairs, dtype=torch.int64, device="cpu").reshape(len(pairs), 2)


def _call_autocast(
    run: Callable[..., Tensor],
    value: Tensor,
    spatial_shapes: SpatialShapes,
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


def _load_extension() -> ModuleType | Backend:
    """Import the extension, or tell why the reference has to run."""
    try:
        return importlib.import_module(EXTENSION)
    except ModuleNotFoundError:
        return _build_failure() or Backend("reference", f"{EXTENSION} was never built", REBUILD)
    except ImportError as error:
        reason = f"{EXTENSION} cannot be loaded by torch {torch.__version__} ({error})"
        return Backend("reference", reason, f"rebuild it for this torch: {REBUILD}")


def _build_failure() -> Backend | None:
    """Read what setup.py could not build and why, or None where it built all that was asked for."""
    if not BUILD_FAILURE_FILE.is_file():
        return None
    reason, remedy = BUILD_FAILURE_FILE.read_text(encoding="utf-8").splitlines()[:2]
    return Backend("reference", reason, remedy)


def _fake_forward(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Give the result's shape, for tracing."""
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


def _fake_backward(
    grad_output: Tensor, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the shapes of the gradients, for tracing."""
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Keep the inputs: samples are computed again in the backward pass, which costs less than storing them."""
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    """Give the gradients of value, locations and weights."""
    operator = torch.ops.panoptic_segformer.ms_deform_attn_backward
    grad_value, grad_locations, grad_weights = operator(grad_output, *ctx.saved_tensors)
    return grad_value, None, grad_locations, grad_weights


def _refuse_second_order(ctx: Any, *grads: Tensor) -> None:
    """Raise: without this torch would take the second-order terms for zero."""
    raise RuntimeError("ms_deform_attn has gradients of first order only: call it without create_graph=True")


def _refuse_forward_mode(*tensors: Tensor) -> None:
    """Raise: without this torch would take the tangents for zero."""
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(
            "ms_deform_attn has gradients of reverse mode only: use backward instead of forward_ad and jvp, or "
            "ms_deform_attn_reference"
        )


def _register(library: torch.library.Library) -> None:
    """Give the compiled operator its fake kernels, autograd and autocast."""
    forward = "panoptic_segformer::ms_deform_attn"
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake(f"{forward}_backward", _fake_backward)
    torch.library.register_autograd(forward, _backward, setup_context=_setup_context)
    torch.library.register_autograd(f"{forward}_backward", _refuse_second_order)
    # torch.library.register_autocast would cast the locations too.
    autocast = functools.partial(_call_autocast, torch.ops.panoptic_segformer.ms_deform_attn)
    for key in ("AutocastCPU", "AutocastCUDA"):
        library.impl("ms_deform_attn", autocast, key)


_extension = _load_extension()
if not isinstance(_extension, Backend):
    _library = torch.library.Library("panoptic_segformer", "IMPL")  # Registrations live as long as it does.
    _register(_library)
