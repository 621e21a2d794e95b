"""Softmax, focal and dice losses, and their pairwise costs, against formulas written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segformer.training.matcher import Match
from panoptic_segformer.training.set_losses import (
    class_loss,
    mask_dice_costs,
    mask_dice_losses,
    mask_focal_costs,
    mask_focal_losses,
    softmax_class_costs,
)


def masks(number: int, pixels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of some queries, and as many 0/1 masks."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(number, pixels, generator=random, dtype=torch.float64)
    return logits, (torch.rand(number, pixels, generator=random) < 0.4).double()


def focal(logit: float, is_inside: bool) -> float:
    prob = 1 / (1 + math.exp(-logit))
    share, weight = (prob, 0.25) if is_inside else (1 - prob, 0.75)
    return -weight * (1 - share) ** 2 * math.log(share)


def test_focal_loss_is_the_mean_over_pixels():
    logits, truth = masks(3, 11, seed=1)
    expected = [
        sum(focal(x, bool(t)) for x, t in zip(row.tolist(), own.tolist(), strict=True)) / 11
        for row, own in zip(logits, truth, strict=True)
    ]
    assert mask_focal_losses(logits, truth).tolist() == pytest.approx(expected)


def test_dice_loss_adds_one_above_and_below():
    logits, truth = masks(2, 7, seed=2)
    for row, own, found in zip(logits.sigmoid(), truth, mask_dice_losses(logits, truth), strict=True):
        inside = sum(p * t for p, t in zip(row.tolist(), own.tolist(), strict=True))
        assert found.item() == pytest.approx(1 - (2 * inside + 1) / (float(row.sum()) + float(own.sum()) + 1))


def test_empty_mask_without_prediction_costs_no_dice():
    assert mask_dice_losses(torch.full((1, 4), -50.0), torch.zeros(1, 4)).item() == pytest.approx(0, abs=1e-6)


@given(st.integers(1, 4), st.integers(0, 4), st.integers(1, 30), st.integers(0, 99))
def test_costs_are_the_losses_of_all_pairs(num_queries, num_targets, pixels, seed):
    logits, _ = masks(num_queries, pixels, seed)
    _, truth = masks(num_targets, pixels, seed + 1)
    for costs, losses in ((mask_focal_costs, mask_focal_losses), (mask_dice_costs, mask_dice_losses)):
        found = costs(logits, truth)
        assert found.shape == (num_queries, num_targets)
        for query in range(num_queries):
            expected = losses(logits[query : query + 1].expand(num_targets, -1), truth)
            torch.testing.assert_close(found[query], expected)


def test_class_costs_are_minus_the_probability():
    logits = torch.tensor([[0.0, math.log(3.0), 0.0], [math.log(2.0), 0.0, 0.0]])
    expected = torch.tensor([[-0.6, -0.2], [-0.25, -0.5]])
    torch.testing.assert_close(softmax_class_costs(logits, torch.tensor([1, 0])), expected)


def test_class_loss_is_the_weighted_mean_with_no_object_for_the_rest():
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
    classes = [torch.tensor([1, 0]), torch.empty(0, dtype=torch.int64)]
    matches = [
        Match(torch.tensor([0, 2]), torch.tensor([1, 0])),
        Match(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)),
    ]
    labels = [[0, 2, 1], [2, 2, 2]]
    surprise = total = 0.0
    for picture, row in enumerate(labels):
        for query, label in enumerate(row):
            surprise -= float(weights[label] * logits[picture, query].log_softmax(-1)[label])
            total += float(weights[label])
    assert class_loss(logits, classes, matches, weights).item() == pytest.approx(surprise / total)
