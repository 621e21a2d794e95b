"""Losses are Detectron2's, on every kind of example."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.meta_arch import PanopticFPN
from detectron2.utils.events import EventStorage

from rectangles import make_example

LOSSES = {"loss_sem_seg", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
TWO_THINGS = [(0, 4, 4, 40, 40), (5, 50, 50, 90, 120)]
SKY = [(0, 0, 0, 50, 128)]
EXAMPLES = {
    "things and stuff": [make_example((96, 128), TWO_THINGS, SKY)],
    "two sizes": [make_example((96, 128), TWO_THINGS, SKY), make_example((64, 80), [(1, 4, 4, 40, 40)], [])],
    "no thing": [make_example((96, 128), [], SKY)],
    "no stuff": [make_example((96, 128), TWO_THINGS, [])],
    "nothing at all": [make_example((96, 128)), make_example((96, 128))],
    "one of two is empty": [make_example((96, 128), TWO_THINGS, SKY), make_example((96, 128))],
    "small": [make_example((9, 7), [(2, 1, 1, 6, 6)], [(3, 0, 0, 1, 7)])],
    "a pixel": [make_example((1, 1), [(2, 0, 0, 1, 1)], [])],
    "150 things": [
        make_example((96, 128), [(i % 6, i // 15 * 9, i % 15 * 8, i // 15 * 9 + 8, i % 15 * 8 + 7) for i in range(150)])
    ],
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_kind_of_example_gives_finite_losses_and_gradients(small_model, kind):
    small_model.train()
    small_model.zero_grad()
    losses = small_model(EXAMPLES[kind])
    assert losses.keys() == LOSSES
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    gradients = {name: parameter.grad for name, parameter in small_model.named_parameters() if parameter.requires_grad}
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
    has_things = any(len(example["instances"]) for example in EXAMPLES[kind])
    has_truth = has_things or any(len(example["stuff"]) for example in EXAMPLES[kind])
    assert bool(losses["loss_mask"] > 0) == has_things
    assert bool(losses["loss_sem_seg"] > 0) == has_truth
    if kind == "things and stuff":
        assert all(gradient is not None and gradient.any() for gradient in gradients.values())


def test_losses_are_detectron2s(small_model):
    """The original reads `sem_seg`: 0 on things, 1 + class on stuff, 255 where nothing is known."""
    small_model.train()
    example = make_example((96, 128), TWO_THINGS, SKY)
    labels = torch.full((96, 128), 255)
    labels[:50] = 1
    labels[4:40, 4:40] = labels[50:90, 50:120] = 0
    torch.manual_seed(5)  # anchors and boxes are sampled
    ours = small_model([example])
    torch.manual_seed(5)
    with EventStorage():
        theirs = PanopticFPN.forward(small_model, [{**example, "sem_seg": labels}])
    assert {name: loss.item() for name, loss in ours.items()} == {name: loss.item() for name, loss in theirs.items()}


def test_storage_of_a_trainer_is_used(small_model):
    small_model.train()
    with EventStorage() as storage:
        small_model(EXAMPLES["things and stuff"])
    assert "rpn/num_pos_anchors" in storage.latest()
