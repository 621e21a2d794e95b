"""Losses and costs against their formulas, and costs against the losses that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from panoptic_segformer.training.losses import (
    class_costs,
    classification_loss,
    dice_costs,
    dice_losses,
    distance_costs,
    giou_costs,
    giou_loss,
)

RANDOM = np.random.default_rng(0)
SCALE = torch.tensor([40.0, 30.0, 40.0, 30.0], dtype=torch.float64)


def random(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RANDOM.random(shape))


def test_dice_is_zero_for_equal_masks_and_one_for_disjoint_ones():
    masks = torch.zeros(2, 4, 4, dtype=torch.float64)
    masks[0, :2], masks[1, 2:] = 1, 1
    assert dice_losses(masks, masks).abs().max() < 1e-6
    assert dice_losses(masks, masks.flip(0)).tolist() == [1, 1]


def test_dice_cost_of_a_pair_is_near_its_loss():
    masks, targets = random(3, 5, 6), random(2, 5, 6)
    costs = dice_costs(masks, targets)
    for row in range(3):
        for column in range(2):
            loss = dice_losses(masks[row : row + 1], targets[column : column + 1]).item()
            assert costs[row, column].item() == pytest.approx(loss, abs=1e-3)


def test_class_cost_is_the_change_of_the_focal_loss():
    logits = torch.from_numpy(RANDOM.normal(size=(4, 5)))
    classes = torch.tensor([3, 0])
    costs = class_costs(logits, classes)
    nothing = torch.zeros_like(logits)
    for query in range(4):
        for target, label in enumerate(classes):
            truth = nothing.clone()
            truth[query, label] = 1
            change = classification_loss(logits, truth) - classification_loss(logits, nothing)
            assert costs[query, target].item() == pytest.approx(change.item(), abs=1e-9)


def test_box_costs_are_the_losses_of_all_pairs():
    boxes, targets = random(3, 4) * 0.5 + 0.2, random(2, 4) * 0.5 + 0.2
    distances, negative_giou = distance_costs(boxes, targets), giou_costs(boxes, targets, SCALE)
    pixels = [box_convert(x, "cxcywh", "xyxy") * SCALE for x in (boxes, targets)]
    assert torch.allclose(negative_giou, -generalized_box_iou(*pixels))
    for row in range(3):
        for column in range(2):
            pair = boxes[row : row + 1], targets[column : column + 1]
            assert distances[row, column].item() == pytest.approx((pair[0] - pair[1]).abs().sum().item())
            assert (1 + negative_giou[row, column]).item() == pytest.approx(giou_loss(*pair, SCALE).item(), abs=1e-6)


def test_empty_sets_give_zero_with_gradient():
    masks = torch.zeros(0, 4, 4, requires_grad=True)
    boxes = torch.zeros(0, 4, requires_grad=True)
    loss = dice_losses(masks, torch.zeros(0, 4, 4)).sum() + giou_loss(boxes, torch.zeros(0, 4), SCALE)
    loss.backward()
    assert loss == 0
    assert masks.grad is not None
    assert boxes.grad is not None
