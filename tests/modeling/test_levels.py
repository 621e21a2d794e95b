"""Padding arithmetic of batches of different sizes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_segformer.modeling.levels import FeatureLevels, pad_levels
from panoptic_segformer.modeling.position_encoding import sine_position_encoding

DIM = 8
sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=2)


def picture(level_sizes, value: float) -> list[torch.Tensor]:
    return [torch.full((1, DIM, height, width), value) for height, width in level_sizes]


@settings(max_examples=50)
@given(first=sizes, second=sizes)
def test_each_picture_keeps_its_own_tokens(first, second):
    levels = pad_levels([picture(first, 1.0), picture(second, 2.0)])
    assert levels.sizes == [first, second]
    padding = levels.padding
    assert (padding is not None) == (first != second)
    for index, own in enumerate([first, second]):
        area = sum(height * width for height, width in own)
        tokens = levels.picture_tokens(levels.tokens(), [index], 2)
        assert tokens.shape == (1, area, DIM)
        assert tokens.eq(index + 1).all()
        if padding is not None:
            assert int((~padding[index]).sum()) == area
            assert levels.tokens()[index][padding[index]].count_nonzero() == 0


@settings(max_examples=50)
@given(first=sizes, second=sizes)
def test_positions_and_references_are_those_of_the_picture_alone(first, second):
    alone = pad_levels([picture(first, 1.0)])
    both = pad_levels([picture(first, 1.0), picture(second, 2.0)])
    for single, batched, (height, width) in zip(
        sine_position_encoding(alone), sine_position_encoding(both), first, strict=True
    ):
        assert torch.equal(single[0], batched[0, :, :height, :width])
    own = both.picture_tokens(both.reference_points(), [0], 2)
    assert torch.equal(own, alone.reference_points())
    # A point of the picture lies at the same cell of the level, whatever the padding.
    shapes = torch.tensor(both.shapes).flip(-1)
    cells = own[0, :, None] * both.valid_ratios[0] * shapes
    cells_alone = own[0, :, None] * torch.tensor(alone.shapes).flip(-1)
    assert torch.allclose(cells, cells_alone, atol=1e-5)


def test_detr_counts_cells_of_each_picture_from_one():
    """Rows in the first half of the channels; of a pair of channels the first is the sine."""
    levels = FeatureLevels([torch.zeros(2, 8, 3, 5)], [[(3, 5)], [(2, 4)]])
    (encoding,) = sine_position_encoding(levels, first=1.0)
    assert encoding.shape == (2, 8, 3, 5)
    for picture, (height, width) in enumerate([(3, 5), (2, 4)]):
        for y, x, channel in itertools.product(range(height), range(width), range(8)):
            share = (y + 1) / height if channel < 4 else (x + 1) / width
            wave = math.sin if channel % 2 == 0 else math.cos
            expected = wave(2 * math.pi * share / 10000 ** (channel % 4 // 2 / 2))
            assert encoding[picture, channel, y, x].item() == pytest.approx(expected, abs=1e-5)
