"""Skips tests of the compiled operators where there are none for a good reason; a broken build fails them."""

from __future__ import annotations

import pytest

from panoptic_segformer.ops import backend

# Reasons of a user or a machine to have no compiled operator; with any other one the build is broken.
GOOD_REASONS = ("skipped on request", "no C++ compiler", "CPU kernels only", "without CUDA kernels")


def require_compiled(device: str = "cpu") -> None:
    """Skip a test of the compiled operator where there is none for a good reason, fail where it is broken."""
    chosen = backend(device)
    if chosen.name != "compiled":
        stop = pytest.skip if any(reason in chosen.reason for reason in GOOD_REASONS) else pytest.fail
        stop(f"{chosen.reason}; remedy: {chosen.remedy}")
