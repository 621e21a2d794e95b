"""Merging against a plain loop that follows the paper's algorithm 1 word by word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from panoptic_segformer.inference.merging import MergeOptions, merge_masks, score_candidates, upper_score_bounds

OPTIONS = MergeOptions(
    mask_threshold=0.5,
    score_threshold=0.25,
    thing_overlap_threshold=0.4,
    stuff_overlap_threshold=0.2,
    class_exponent=1.0,
    mask_exponent=2.0,
)


def merge_slowly(inside, scores, is_thing):
    result = np.zeros(inside.shape[1:], int)
    kept = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if scores[index] < OPTIONS.score_threshold:
            continue
        area = inside[index].sum()
        taken = (inside[index] & (result > 0)).sum()
        limit = OPTIONS.thing_overlap_threshold if is_thing[index] else OPTIONS.stuff_overlap_threshold
        if area == taken or np.float32(taken / area) > np.float32(limit):
            continue
        kept.append(index)
        result[inside[index] & (result == 0)] = len(kept)
    return result, kept


@settings(max_examples=200)
@given(data=st.data(), number=st.integers(0, 8), height=st.integers(1, 6), width=st.integers(1, 6))
def test_merge_equals_the_plain_loop(data, number, height, width):
    inside = data.draw(npst.arrays(bool, (number, height, width)))
    steps = data.draw(st.permutations(range(12)))[:number]  # distinct: equal scores have no order
    scores = np.array([step / 12 for step in steps], np.float32)
    is_thing = data.draw(npst.arrays(bool, number))
    segment_ids, kept, areas = merge_masks(
        torch.from_numpy(inside).float(),
        torch.from_numpy(scores),
        torch.from_numpy(is_thing),
        (height, width),
        OPTIONS,
    )
    expected_ids, expected_kept = merge_slowly(inside, scores, is_thing)
    assert segment_ids.dtype == torch.int32
    assert segment_ids.tolist() == expected_ids.tolist()
    assert kept.tolist() == expected_kept
    assert areas.tolist() == [(expected_ids == rank + 1).sum() for rank in range(len(expected_kept))]


@settings(max_examples=100)
@given(
    masks=npst.arrays(np.float32, (3, 4, 5), elements=st.floats(0, 3, width=32)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_score_bound_holds_at_every_size(masks, size):
    masks = torch.from_numpy(masks)
    probs = torch.tensor([0.2, 0.6, 1.0])
    scores = score_candidates(probs, masks, size, OPTIONS)
    assert bool((scores <= upper_score_bounds(probs, masks, OPTIONS)).all())


def test_score_is_the_mean_inside_with_one_more_pixel():
    mask = torch.tensor([[[0.0, 0.6], [1.0, 1.2]]])
    score = score_candidates(torch.tensor([0.5]), mask, (2, 2), OPTIONS)
    assert score.item() == pytest.approx(0.5 * ((0.6 + 1.0 + 1.2) / 4) ** 2)


def test_no_masks_give_an_empty_map():
    nothing = torch.zeros(0)
    segment_ids, kept, areas = merge_masks(torch.zeros(0, 3, 3), nothing, nothing.bool(), (4, 5), OPTIONS)
    assert segment_ids.shape == (4, 5)
    assert not segment_ids.any()
    assert len(kept) == len(areas) == 0
