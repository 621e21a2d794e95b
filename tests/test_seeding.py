"""Equal numbers give equal draws, others do not, and a visit leaves no trace."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segformer.seeding import seed_by, seeded

NUMBERS = st.lists(st.integers(0, 2**63), min_size=1, max_size=3)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@given(NUMBERS, NUMBERS)
def test_draws_depend_on_the_numbers_alone(first: list[int], second: list[int]) -> None:
    seed_by(*first)
    drawn = draw()
    seed_by(*second)
    other = draw()
    seed_by(*first)
    assert draw() == drawn
    assert (other == drawn) == (first == second)


def test_visit_draws_the_same_and_leaves_no_trace() -> None:
    seed_by(3)
    expected = [draw(), draw()]
    seed_by(8, 1)
    inside = draw()
    seed_by(3)
    found = [draw()]
    with seeded(8, 1):
        assert draw() == inside
    assert [*found, draw()] == expected
