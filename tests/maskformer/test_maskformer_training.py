"""Training: examples of all kinds, and gradients."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Instances


def segments(number: int, num_classes: int, size: tuple[int, int], seed: int) -> Instances:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(number, *size, generator=generator) < 0.2
    classes = torch.randint(num_classes, (number,), generator=generator)
    return Instances(size, gt_classes=classes, gt_masks=BitMasks(masks))


def example(num_things: int, num_stuff: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> dict[str, object]:
    """Random truth of 6 thing and 6 stuff classes, as the synthetic scenes have them."""
    image = 255 * torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))
    stuff = segments(num_stuff, 6, size, seed + 1)
    stuff.gt_classes = torch.arange(num_stuff)
    return {"image": image, "instances": segments(num_things, 6, size, seed), "stuff": stuff}


@pytest.mark.parametrize(
    "numbers",
    [[(3, 2)], [(3, 2), (1, 4)], [(0, 2)], [(3, 0)], [(0, 0)], [(0, 0), (2, 1)], [(120, 3)]],
    ids=["one", "two", "no thing", "no stuff", "empty", "one of two empty", "more than queries"],
)
def test_every_kind_of_example_trains(tiny_model, numbers):
    model = tiny_model().train()
    losses = model([example(*number, seed=seed) for seed, number in enumerate(numbers)])
    assert list(losses) == [
        f"{name}{suffix}" for suffix in ("_0", "") for name in ("loss_ce", "loss_mask", "loss_dice")
    ]
    assert all(loss.isfinite() for loss in losses.values())
    is_empty = not any(map(sum, numbers))
    assert (losses["loss_mask"] == 0) == is_empty
    sum(losses.values()).backward()
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    if not is_empty:
        # Queries start from zero, so that attention among them starts behind the first layer.
        unreached = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.count_nonzero()]
        assert all(name.startswith("sem_seg_head.predictor.transformer.decoder.layers.0.") for name in unreached)


def test_pictures_of_two_sizes_train(tiny_model):
    losses = tiny_model().train()([example(2, 2), example(2, 1, size=(50, 120), seed=5)])
    assert all(loss.isfinite() for loss in losses.values())


def test_without_deep_supervision_the_last_layer_alone_learns(tiny_model):
    model = tiny_model("MODEL.MASK_FORMER.DEEP_SUPERVISION", "False").train()
    assert list(model([example(2, 2)])) == ["loss_ce", "loss_mask", "loss_dice"]


def test_padding_of_a_batch_is_no_part_of_any_segment(tiny_model):
    """The truth of a padded picture equals the truth that is padded."""
    model = tiny_model()
    own = example(2, 2, size=(40, 56))
    targets = model._targets(own, (64, 96))
    masks = torch.cat([own["instances"].gt_masks.tensor, own["stuff"].gt_masks.tensor])
    assert torch.equal(targets.masks[:, :40, :56], masks)
    assert not targets.masks[:, 40:].any()
    assert not targets.masks[:, :, 56:].any()


def test_losses_under_autocast_are_of_full_precision(tiny_model):
    model = tiny_model().train()
    full = model([example(3, 2)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model([example(3, 2)])
    assert all(loss.dtype == torch.float32 for loss in half.values())
    assert sum(half.values()).item() == pytest.approx(sum(full.values()).item(), rel=0.05)
