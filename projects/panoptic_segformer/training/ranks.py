"""Numbers that all parts of a batch share: those of other processes, and those computed one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from detectron2.utils import comm

__all__ = ["mean_over_ranks", "part_of_batch"]

_means_of_batch: ContextVar[list[float] | None] = ContextVar("means_of_batch", default=None)


def mean_over_ranks(numbers: Sequence[int], device: torch.device) -> list[float]:
    """Return the means over all ranks; every rank must call it with as many numbers.

    Inside `part_of_batch`, these are the means over all parts of all ranks, known beforehand.
    """
    if (means := _means_of_batch.get()) is not None:
        return list(means)
    if comm.get_world_size() == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(sums)
    return (sums / comm.get_world_size()).tolist()


@contextmanager
def part_of_batch(means: Sequence[float]) -> Iterator[None]:
    """Let `mean_over_ranks` return these while one part of a batch is computed: its normalisers are the batch's."""
    token = _means_of_batch.set(list(means))
    try:
        yield
    finally:
        _means_of_batch.reset(token)
