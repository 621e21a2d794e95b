"""Matching and losses against brute force, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from maskformer.criterion import Criterion, Targets
from maskformer.predictor import Prediction

CLASSES, QUERIES = 4, 5
SMALL, FULL = (4, 6), (16, 24)


def prediction(seed: int, pictures: int) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    return Prediction(
        torch.randn(pictures, QUERIES, CLASSES + 1, **options).requires_grad_(),
        (3 * torch.randn(pictures, QUERIES, *SMALL, **options)).requires_grad_(),
    )


def targets(seed: int, number: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(number, *FULL, generator=generator) < 0.3
    return Targets(torch.randint(CLASSES, (number,), generator=generator), masks)


@pytest.fixture
def criterion() -> Criterion:
    return Criterion(num_classes=CLASSES, no_object_weight=0.1, mask_weight=20.0, dice_weight=1.0).double()


def focal(logit: float, truth: float) -> float:
    prob = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - prob) ** 2 * math.log(prob) if truth else -0.75 * prob**2 * math.log(1 - prob)


def mask_terms(logits: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Focal and dice of one pair, pixel by pixel."""
    pairs = list(zip(logits.flatten().tolist(), truth.flatten().double().tolist(), strict=True))
    probs = [1 / (1 + math.exp(-logit)) for logit, _ in pairs]
    both = sum(p * t for p, (_, t) in zip(probs, pairs, strict=True))
    dice = 1 - (2 * both + 1) / (sum(probs) + sum(t for _, t in pairs) + 1)
    return sum(focal(*pair) for pair in pairs) / len(pairs), dice


def brute_force_match(class_logits, mask_logits, own: Targets) -> dict[int, int]:
    """Target by query of the cheapest of all assignments; masks are compared at the predictions' size."""
    step = FULL[0] // SMALL[0]
    costs = torch.zeros(QUERIES, len(own.classes))
    for query, target in itertools.product(range(QUERIES), range(len(own.classes))):
        focal_cost, dice_cost = mask_terms(mask_logits[query], own.masks[target, ::step, ::step])
        class_cost = -class_logits[query].softmax(-1)[own.classes[target]].item()
        costs[query, target] = class_cost + 20 * focal_cost + dice_cost
    orders = itertools.permutations(range(QUERIES), len(own.classes))
    best = min(orders, key=lambda order: sum(costs[q, t].item() for t, q in enumerate(order)))
    return {query: target for target, query in enumerate(best)}


def brute_force_losses(predicted: Prediction, pictures: list[Targets]) -> dict[str, float]:
    number = max(sum(len(own.classes) for own in pictures), 1)
    cross_entropy, weights, focal_sum, dice_sum = 0.0, 0.0, 0.0, 0.0
    for class_logits, mask_logits, own in zip(predicted.class_logits, predicted.mask_logits, pictures, strict=True):
        match = brute_force_match(class_logits.detach(), mask_logits.detach(), own)
        large = F.interpolate(mask_logits[None], FULL, mode="bilinear", align_corners=False)[0].detach()
        for query in range(QUERIES):
            label = own.classes[match[query]].item() if query in match else CLASSES
            weight = 1.0 if query in match else 0.1
            cross_entropy -= weight * class_logits[query].log_softmax(-1)[label].item()
            weights += weight
            if query in match:
                pair = mask_terms(large[query], own.masks[match[query]])
                focal_sum, dice_sum = focal_sum + pair[0], dice_sum + pair[1]
    return {"loss_ce": cross_entropy / weights, "loss_mask": 20 * focal_sum / number, "loss_dice": dice_sum / number}


@pytest.mark.parametrize("numbers", [(2, 3), (0, 4), (0, 0)])
def test_losses_of_two_layers_equal_brute_force(criterion, numbers):
    layers = [prediction(seed, len(numbers)) for seed in (0, 1)]
    pictures = [targets(seed, number) for seed, number in enumerate(numbers, start=10)]
    losses = criterion(layers, pictures)
    first, last = (brute_force_losses(layer, pictures) for layer in layers)
    expected = {f"{name}_0": value for name, value in first.items()} | last
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-6, abs=1e-12), name


def test_order_of_the_truth_does_not_matter(criterion):
    layers, own = [prediction(0, 1)], targets(3, 4)
    order = torch.tensor([2, 0, 3, 1])
    losses = criterion(layers, [own])
    shuffled = criterion(layers, [Targets(own.classes[order], own.masks[order])])
    for name, loss in losses.items():
        assert shuffled[name].item() == pytest.approx(loss.item(), rel=1e-12)


def test_more_targets_than_queries_leave_the_dearest_out(criterion):
    """The sums are still divided by the number of targets."""
    layers, own = [prediction(0, 1)], targets(3, QUERIES + 2)
    losses = criterion(layers, [own])
    match = criterion.match(layers[0].class_logits[0], layers[0].mask_logits[0], own, own.small_masks(SMALL))
    assert match.queries.tolist() == list(range(QUERIES))
    assert len(set(match.targets.tolist())) == QUERIES
    assert 0 < losses["loss_dice"].item() < QUERIES / (QUERIES + 2)


def test_gradients_are_those_of_losses_that_keep_everything(criterion, monkeypatch):
    own = [targets(5, 3)]

    def gradients():
        layer = prediction(0, 1)
        sum(criterion([layer], own).values()).backward()
        return layer.class_logits.grad, layer.mask_logits.grad

    recomputed = gradients()
    monkeypatch.setattr("maskformer.criterion.checkpoint", lambda f, *inputs, use_reentrant: f(*inputs))
    for once, again in zip(gradients(), recomputed, strict=True):
        assert once.count_nonzero() > 0
        assert torch.equal(once, again)


def test_nothing_of_full_size_waits_for_the_backward_pass(criterion):
    layer, own = prediction(0, 1), [targets(5, 3)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        criterion([layer], own)
    bool_masks = [shape for shape in kept if tuple(shape[-2:]) == FULL]
    assert len(bool_masks) == 1  # the truth itself, as bool
    assert not [shape for shape in kept if shape[-1:] == (FULL[0] * FULL[1],)]
