"""Losses are Detectron2's, on every kind of example."""

from __future__ import annotations

import pytest
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab import PanopticDeepLab

from panoptic_segformer.class_numbers import with_class_numbers
from rectangles import make_example

TWO_THINGS = [(0, 4, 4, 40, 40), (5, 50, 50, 90, 120)]
SKY = [(0, 0, 0, 4, 128)]
GRID = [(i % 6, i // 15 * 9, i % 15 * 8, i // 15 * 9 + 8, i % 15 * 8 + 7) for i in range(150)]
EXAMPLES = {
    "things and stuff": [make_example((96, 128), TWO_THINGS, SKY)],
    "two sizes": [make_example((96, 128), TWO_THINGS, SKY), make_example((63, 81), [(1, 4, 4, 40, 40)], [])],
    "no thing": [make_example((96, 128), [], SKY)],
    "no stuff": [make_example((96, 128), TWO_THINGS, [])],
    "nothing at all": [make_example((96, 128)), make_example((96, 128))],
    "one of two is empty": [make_example((96, 128), TWO_THINGS, SKY), make_example((96, 128))],
    "small": [make_example((9, 7), [(2, 1, 1, 6, 6)], [(3, 0, 0, 1, 7)])],
    "a pixel": [make_example((1, 1), [(2, 0, 0, 1, 1)], [])],
    "150 things": [make_example((96, 128), GRID)],
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_kind_of_example_gives_finite_losses_and_gradients(small_model, kind):
    small_model.train()
    small_model.zero_grad()
    losses = small_model(EXAMPLES[kind])
    assert losses.keys() == {"loss_sem_seg", "loss_center", "loss_offset"}
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    gradients = [parameter.grad for parameter in small_model.parameters() if parameter.requires_grad]
    assert all(gradient.isfinite().all() for gradient in gradients)
    has_things = any(len(example["instances"]) for example in EXAMPLES[kind])
    has_truth = has_things or any(len(example["stuff"]) for example in EXAMPLES[kind])
    assert bool(losses["loss_offset"] > 0) == has_things
    assert bool(losses["loss_center"] > 0) == bool(losses["loss_sem_seg"] > 0) == has_truth
    if kind == "things and stuff":
        assert all(gradient.any() for gradient in gradients)


def test_losses_are_detectron2s(small_model, small_config):
    """The original reads targets in the examples: those that ours makes, of a batch of one."""
    cfg = with_class_numbers(small_config(), {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 12})
    original = PanopticDeepLab(cfg).train()
    original.load_state_dict(small_model.state_dict())
    (example,) = EXAMPLES["things and stuff"]
    targets = small_model.target_maker.picture_targets(example["instances"], example["stuff"])
    expected = original([{**example, **targets, "center": targets["center"][0]}])
    actual = small_model.train()([example])
    assert {name: loss.item() for name, loss in actual.items()} == {n: loss.item() for n, loss in expected.items()}


def test_pictures_smaller_than_the_crop_are_padded_to_it(small_config):
    """ASPP averages over windows of the crop's size; Detectron2 refuses pictures that these do not fill."""
    crop = ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "(64, 96)"]
    model = build_model(small_config(*crop))
    assert model.size_multiples == (64, 96)
    assert model.preprocess([make_example((65, 50))]).tensor.shape == (1, 3, 128, 96)
    losses = model.train()([make_example((30, 50), [(0, 4, 4, 20, 20)])])
    assert all(loss.isfinite() for loss in losses.values())
    assert len(model.eval()([make_example((65, 50))])) == 1
