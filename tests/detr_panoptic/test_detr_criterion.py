"""Matching and losses against their formulas, pair by pair."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from detr_panoptic.criterion import Criterion, prediction_errors
from panoptic_segformer.training.matcher import Match
from panoptic_segformer.training.targets import SegmentTargets

ROWS, QUERIES = 6, 5
CRITERION = Criterion(box=5.0, giou=2.0, mask=1.0, dice=1.0, no_object=0.1)


def make_targets(classes: list[int], seed: int) -> SegmentTargets:
    generator = torch.Generator().manual_seed(seed)
    boxes = 0.1 + 0.4 * torch.rand(len(classes), 4, generator=generator, dtype=torch.float64)
    masks = torch.rand(len(classes), 10, 12, generator=generator) > 0.5
    return SegmentTargets(torch.tensor(classes, dtype=torch.int64), masks, boxes, torch.ones(4))


def make_predictions(pictures: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(pictures, QUERIES, ROWS, generator=generator, dtype=torch.float64)
    boxes = 0.1 + 0.4 * torch.rand(pictures, QUERIES, 4, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), boxes.requires_grad_()


def giou(first: list[float], second: list[float]) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    inner = [
        max(0.0, min(c + s / 2, d + t / 2) - max(c - s / 2, d - t / 2))
        for c, s, d, t in ((ax, aw, bx, bw), (ay, ah, by, bh))
    ]
    outer = [
        max(c + s / 2, d + t / 2) - min(c - s / 2, d - t / 2) for c, s, d, t in ((ax, aw, bx, bw), (ay, ah, by, bh))
    ]
    union = aw * ah + bw * bh - inner[0] * inner[1]
    hull = outer[0] * outer[1]
    return inner[0] * inner[1] / union - (hull - union) / hull


def test_matching_is_the_cheapest_of_all_assignments():
    targets = make_targets([1, 4, 4], seed=5)
    (logits,), (boxes,) = make_predictions(1)
    probs = logits.softmax(-1).tolist()
    truth = targets.locations.tolist()

    def cost(query: int, target: int) -> float:
        box = boxes[query].tolist()
        distance = sum(abs(a - b) for a, b in zip(box, truth[target], strict=True))
        return -probs[query][int(targets.classes[target])] + 5 * distance - 2 * giou(box, truth[target])

    best = min(
        itertools.permutations(range(QUERIES), len(truth)),
        key=lambda queries: sum(cost(query, target) for target, query in enumerate(queries)),
    )
    match = CRITERION.match(logits, boxes, targets)
    found = dict(zip(match.targets.tolist(), match.queries.tolist(), strict=True))
    assert [found[target] for target in range(len(truth))] == list(best)


def test_class_and_box_losses_are_the_formulas():
    targets = [make_targets([1, 4], seed=5), make_targets([2], seed=6)]
    matches = [Match(torch.tensor([0, 3]), torch.tensor([1, 0])), Match(torch.tensor([4]), torch.tensor([0]))]
    logits, boxes = make_predictions(2)
    losses = CRITERION.class_and_box_losses(logits, boxes, targets, matches, number=3.0)

    labels = torch.full((2, QUERIES), ROWS - 1)
    labels[0, 0], labels[0, 3], labels[1, 4] = 4, 1, 2
    weights = torch.where(labels == ROWS - 1, 0.1, 1.0)
    negative = -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    assert losses["loss_ce"].item() == pytest.approx(((weights * negative).sum() / weights.sum()).item())
    pairs = [(boxes[0, 0], targets[0].locations[1]), (boxes[0, 3], targets[0].locations[0])]
    pairs.append((boxes[1, 4], targets[1].locations[0]))
    distance = sum((a - b).abs().sum().item() for a, b in pairs)
    assert losses["loss_bbox"].item() == pytest.approx(5 * distance / 3)
    overlap = sum(1 - giou(a.tolist(), b.tolist()) for a, b in pairs)
    assert losses["loss_giou"].item() == pytest.approx(2 * overlap / 3, rel=1e-5)


def test_mask_losses_are_the_formulas_with_padding_as_background():
    torch.manual_seed(0)
    size = (12, 16)
    logits = [torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)]
    truth = [torch.rand(2, 12, 10) > 0.5, torch.rand(1, 9, 16) > 0.5]
    losses = CRITERION.mask_losses(logits, truth, size, number=3.0)
    focal = dice = 0.0
    for own, masks in zip(logits, truth, strict=True):
        for mask_logits, mask in zip(own, masks, strict=True):
            x = F.interpolate(mask_logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            y = torch.zeros(size, dtype=torch.float64)
            y[: mask.shape[0], : mask.shape[1]] = mask
            p = x.sigmoid()
            inside, outside = 0.25 * (1 - p) ** 2 * -p.log(), 0.75 * p**2 * -(1 - p).log()
            focal += torch.where(y > 0, inside, outside).mean().item()
            dice += 1 - (2 * (p * y).sum().item() + 1) / (p.sum().item() + y.sum().item() + 1)
    assert losses["loss_mask"].item() == pytest.approx(focal / 3)
    assert losses["loss_dice"].item() == pytest.approx(dice / 3)


def test_losses_do_not_depend_on_the_order_of_targets():
    targets = make_targets([1, 4, 2], seed=8)
    order = torch.tensor([2, 0, 1])
    turned = SegmentTargets(targets.classes[order], targets.masks[order], targets.locations[order], targets.box_scale)
    logits, boxes = make_predictions(1)
    first, second = (
        CRITERION.class_and_box_losses(logits, boxes, [own], [CRITERION.match(logits[0], boxes[0], own)], 3.0)
        for own in (targets, turned)
    )
    assert {name: loss.item() for name, loss in first.items()} == pytest.approx(
        {name: loss.item() for name, loss in second.items()}
    )


def test_picture_without_segments_teaches_no_object():
    targets = make_targets([], seed=0)
    logits, boxes = make_predictions(1)
    match = CRITERION.match(logits[0], boxes[0], targets)
    losses = CRITERION.class_and_box_losses(logits, boxes, [targets], [match], number=1.0)
    losses |= CRITERION.mask_losses([torch.zeros(0, 3, 4)], [targets.masks], (10, 12), number=1.0)
    assert losses["loss_ce"].item() == pytest.approx(-logits[0].log_softmax(-1)[:, -1].mean().item())
    assert [losses[name].item() for name in ("loss_bbox", "loss_giou", "loss_mask", "loss_dice")] == [0, 0, 0, 0]
    sum(losses.values()).backward()
    assert boxes.grad is not None


def test_errors_count_wrong_classes_and_surplus_objects():
    targets = [make_targets([1, 4], seed=5), make_targets([], seed=6)]
    matches = [Match(torch.tensor([0, 3]), torch.tensor([0, 1])), Match(*torch.zeros(2, 0, dtype=torch.int64))]
    logits = torch.zeros(2, QUERIES, ROWS)
    logits[..., -1] = 1  # "no object"
    logits[0, 0, 1] = logits[0, 3, 2] = logits[0, 4, 2] = 2  # right, wrong, one too many
    errors = prediction_errors(logits, targets, matches)
    assert errors["class_error"].item() == 50
    assert errors["cardinality_error"].item() == 0.5
