"""The assignment against all permutations."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from panoptic_segformer.training.losses import class_costs, dice_costs, distance_costs, giou_costs
from panoptic_segformer.training.matcher import Matcher
from panoptic_segformer.training.targets import SegmentTargets, resize_masks

MATCHER = Matcher(class_cost=2.0, box_cost=5.0, giou_cost=2.0, mask_stage_class_cost=4.0, mask_cost=2.0)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def make_targets(number: int, random: torch.Generator) -> SegmentTargets:
    return SegmentTargets(
        classes=torch.randint(0, 3, (number,), generator=random),
        locations=torch.rand(number, 4, generator=random) * 0.4 + 0.2,
        masks=torch.rand(number, 16, 20, generator=random) > 0.5,
        box_scale=torch.tensor([20.0, 16.0, 20.0, 16.0]),
    )


def cheapest(costs: torch.Tensor) -> float:
    queries, targets = costs.shape
    if queries < targets:
        costs, (queries, targets) = costs.T, (targets, queries)
    return min(
        sum(costs[q, t].item() for t, q in enumerate(order))
        for order in itertools.permutations(range(queries), targets)
    )


@pytest.mark.parametrize(("num_queries", "num_targets"), [(5, 3), (3, 3), (2, 4), (4, 0)])
def test_match_is_the_cheapest_of_all(random, num_queries, num_targets):
    targets = make_targets(num_targets, random)
    logits = torch.randn(num_queries, 3, generator=random)
    boxes = torch.rand(num_queries, 4, generator=random) * 0.4 + 0.2
    masks = torch.rand(num_queries, 4, 5, generator=random)
    distance = 5 * distance_costs(boxes, targets.locations)
    location = distance + 2 * giou_costs(boxes, targets.locations, targets.box_scale)
    classes = class_costs(logits, targets.classes)
    dice = dice_costs(masks, resize_masks(targets.masks, (4, 5), torch.float32))
    without_giou = dataclasses.replace(MATCHER, giou_cost=0.0)
    for match, costs in (
        (MATCHER.match(logits, boxes, targets), 2 * classes + location),
        (without_giou.match(logits, boxes, targets), 2 * classes + distance),
        (MATCHER.match_with_masks(logits, boxes, masks, targets), 4 * classes + location + 2 * dice),
        (MATCHER.match_with_masks(logits, None, masks, targets), 4 * classes + 2 * dice),
    ):
        assert len(match.queries) == min(num_queries, num_targets)
        assert match.queries.tolist() == sorted(match.queries.tolist())
        total = costs[match.queries, match.targets].sum().item()
        assert total == pytest.approx(cheapest(costs), abs=1e-4)


def test_half_precision_is_matched_in_float32(random):
    targets = make_targets(3, random)
    logits = torch.randn(5, 3, generator=random).bfloat16()
    boxes = (torch.rand(5, 4, generator=random) * 0.4 + 0.2).bfloat16()
    half, single = MATCHER.match(logits, boxes, targets), MATCHER.match(logits.float(), boxes.float(), targets)
    assert half.queries.tolist() == single.queries.tolist()
    assert half.targets.tolist() == single.targets.tolist()


def test_cost_that_is_not_finite_is_explained(random):
    logits = torch.full((5, 3), torch.nan)
    with pytest.raises(FloatingPointError, match="10 of 10 matching costs are not finite"):
        MATCHER.match(logits, torch.rand(5, 4), make_targets(2, random))
