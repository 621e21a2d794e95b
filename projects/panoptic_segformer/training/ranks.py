"""Numbers that all processes of a training share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.utils import comm

__all__ = ["mean_over_ranks"]


def mean_over_ranks(numbers: Sequence[int], device: torch.device) -> list[float]:
    """Return the means over all ranks; every rank must call it with as many numbers."""
    if comm.get_world_size() == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(sums)
    return (sums / comm.get_world_size()).tolist()
