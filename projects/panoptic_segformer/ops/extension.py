"""Which implementation of the operators runs: the C++ extension, or the pure PyTorch definition and why.

Importing this module loads the extension `panoptic_segformer._C` (folder csrc), which registers the operators
and their kernels with torch.
"""

from __future__ import annotations

import functools
import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

logger = logging.getLogger(__name__)

EXTENSION = "panoptic_segformer._C"
# Written by setup.py when it could not build the extension, or not with the CUDA kernels asked for: the cause,
# then the remedy, one line each.
BUILD_FAILURE_FILE = Path(__file__).parents[1] / "_build_failure.txt"
REBUILD = "pip install --no-build-isolation -e ."
# An extension without it was built before this Python code was written.
NEWEST_OPERATOR = "paint_masks"


@dataclass(frozen=True)
class Backend:
    """Which implementation of the operators runs, and why.

    Attributes:
        name: "compiled" or "reference".
        reason: one sentence, why this one.
        remedy: what to do to get the compiled operators; empty where they run.
    """

    name: str
    reason: str
    remedy: str = ""


def backend(device_type: str = "cpu") -> Backend:
    """Tell which implementation serves tensors of a device type ("cpu", "cuda", ...), and why."""
    if isinstance(_extension, Backend):
        return _extension
    kernels = "CPU and CUDA" if _extension.WITH_CUDA else "CPU"
    if has_kernel(device_type):
        return Backend("compiled", f"{EXTENSION} is loaded, with {kernels} kernels")
    reason = f"{EXTENSION} was built with {kernels} kernels only"
    if device_type != "cuda":
        return Backend("reference", reason, "use a cpu or cuda device")
    return _build_failure() or Backend(
        "reference", reason, f"install the CUDA toolkit of torch's version, then FORCE_CUDA=1 {REBUILD}"
    )


def is_loaded() -> bool:
    """Return whether the compiled operators are known to torch, on whichever device."""
    return not isinstance(_extension, Backend)


def has_kernel(device_type: str) -> bool:
    """Return whether the compiled operators serve tensors of a device type ("meta": by the shape of the result)."""
    if isinstance(_extension, Backend):
        return False
    return device_type in ("cpu", "meta") or (device_type == "cuda" and bool(_extension.WITH_CUDA))


@functools.cache
def announce_reference(device_type: str) -> None:
    """Say once per device type that the slow path runs."""
    choice = backend(device_type)
    logger.warning(
        "multi-scale deformable attention runs its slower reference on %s: %s. Remedy: %s",
        device_type, choice.reason, choice.remedy,
    )  # fmt: skip


def _load_extension() -> ModuleType | Backend:
    """Import the extension, or tell why the reference has to run."""
    try:
        module = importlib.import_module(EXTENSION)
    except ModuleNotFoundError:
        return _build_failure() or Backend("reference", f"{EXTENSION} was never built", REBUILD)
    except ImportError as error:
        reason = f"{EXTENSION} cannot be loaded by torch {torch.__version__} ({error})"
        return Backend("reference", reason, f"rebuild it for this torch: {REBUILD}")
    if not hasattr(torch.ops.panoptic_segformer, NEWEST_OPERATOR):
        return Backend("reference", f"{EXTENSION} was built from older sources", f"rebuild it: {REBUILD}")
    return module


def _build_failure() -> Backend | None:
    """Read what setup.py could not build and why, or None where it built all that was asked for."""
    if not BUILD_FAILURE_FILE.is_file():
        return None
    reason, remedy = BUILD_FAILURE_FILE.read_text(encoding="utf-8").splitlines()[:2]
    return Backend("reference", reason, remedy)


_extension = _load_extension()
