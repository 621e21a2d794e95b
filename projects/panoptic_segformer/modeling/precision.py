"""The precision in which sums over masks and matching costs are taken."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32"]


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or as it is in float64: half precision is too coarse for sums over a mask."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
