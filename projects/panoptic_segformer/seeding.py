"""Random numbers that depend on what is done, not on what was done before.

A training seeds every picture by its place in the data order, and every step by its iteration. So nothing random has to
be stored: a continued run draws what an uninterrupted one draws, with any number of loader processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["seed_by", "seeded"]


def seed_by(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's global generators, those of GPUs too, by numbers of at least 0."""
    torch.manual_seed(_seed_on_cpu(numbers))


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed as `seed_by` does for a while, then go on where the generators were; those of GPUs are left alone."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        _seed_on_cpu(numbers)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed_on_cpu(numbers: tuple[int, ...]) -> int:
    """Seed the generators of the processor and return torch's seed."""
    first, second, high, low = (int(word) for word in np.random.SeedSequence(numbers).generate_state(4))
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(high << 32 | low)
    return high << 32 | low
