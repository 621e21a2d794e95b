"""Losses against their formulas, loops and each other; what they are divided by; where gradients go."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from panoptic_fcn.heads import HeadOutputs, KernelGenerator
from panoptic_fcn.losses import Criterion, center_kernels, dice_losses, mean_kernels, soft_focal_losses
from panoptic_fcn.targets import LevelTargets, PictureTargets

CRITERION = Criterion(position_weight=1.0, segment_weight=3.0, focal_alpha=0.25, focal_gamma=2.0, num_positions=3)
SIZES = [(4, 5), (1, 2)]
MASK_SIZE = (6, 7)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(batch: int) -> HeadOutputs:
    def levels(channels, seed):
        return [random(batch, channels, *size, seed=seed).requires_grad_() for size in SIZES]

    return HeadOutputs(levels(2, 1), levels(3, 2), levels(5, 3), random(batch, 4, *MASK_SIZE, seed=4).requires_grad_())


def level_targets(size, things, stuff, seed):
    heat_map, score_map = random(2, *size, seed=seed).sigmoid(), random(3, *size, seed=seed + 1).sigmoid()
    thing_regions = random(len(things), *size, seed=seed + 2) > 0
    stuff_regions = random(len(stuff), *size, seed=seed + 3) > 0
    index = [torch.tensor(rows, dtype=torch.int64) for rows in (things, stuff)]
    return LevelTargets(heat_map, index[0], thing_regions, score_map, index[1], stuff_regions)


def picture(things=((0, 1), (1,)), stuff=((0,), (0, 1)), seed=10) -> PictureTargets:
    return PictureTargets(
        thing_classes=torch.tensor([1, 0]),
        thing_masks=random(2, *MASK_SIZE, seed=seed).sigmoid(),
        stuff_classes=torch.tensor([0, 2]),
        stuff_masks=random(2, *MASK_SIZE, seed=seed + 1).sigmoid(),
        levels=[level_targets(*level, seed + 2 + i) for i, level in enumerate(zip(SIZES, things, stuff, strict=True))],
    )


@pytest.fixture
def generators():
    torch.manual_seed(0)
    made = [KernelGenerator(5, 4).double() for _ in range(2)]
    for generator in made:
        torch.nn.init.normal_(generator.embed_extractor.weight)
    return made


def test_focal_loss_of_hard_targets_is_torchvisions():
    logits, targets = random(3, 4), (random(3, 4, seed=1) > 0).double()
    expected = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2)
    torch.testing.assert_close(soft_focal_losses(logits, targets, 0.25, 2), expected)


def test_focal_loss_of_soft_targets_follows_its_formula():
    x, t = 0.7, 0.3
    p = torch.tensor(x, dtype=torch.float64).sigmoid()
    entropy = -(t * p.log() + (1 - t) * (1 - p).log())
    expected = entropy * (1 - (p * t + (1 - p) * (1 - t))) ** 2 * (0.25 * t + 0.75 * (1 - t))
    found = soft_focal_losses(torch.tensor([x], dtype=torch.float64), torch.tensor([t], dtype=torch.float64), 0.25, 2)
    assert found.item() == pytest.approx(expected.item())


def test_dice_is_taken_mask_by_mask():
    probs, targets = random(2, 3, 8).sigmoid(), random(2, 8, seed=1).sigmoid()
    found = dice_losses(probs, targets)
    for row in range(2):
        for column in range(3):
            p, t = probs[row, column], targets[row]
            expected = 1 - 2 * (p * t).sum() / (p.square().sum() + t.square().sum())
            assert found[row, column].item() == pytest.approx(expected.item())


def test_dice_of_empty_masks_is_one():
    assert dice_losses(torch.zeros(1, 1, 4), torch.zeros(1, 4)).tolist() == [[1]]


def test_center_kernels_are_the_most_probable_cells_inside():
    kernel_map, logits, regions = random(5, 3, 4), random(2, 3, 4, seed=1), random(2, 3, 4, seed=2) > -0.5
    kernels, weights = center_kernels(kernel_map, logits, regions, 3)
    for thing in range(2):
        cells = [(logits[thing, r, c].sigmoid().item(), r, c) for r, c in regions[thing].nonzero().tolist()]
        best = sorted(cells, reverse=True)[:3]
        total = sum(score for score, _, _ in best)
        assert weights[thing].tolist() == pytest.approx([score / total for score, _, _ in best])
        assert torch.equal(kernels[thing], torch.stack([kernel_map[:, r, c] for _, r, c in best]))


def test_cells_outside_of_a_small_thing_weigh_nothing():
    region = torch.zeros(1, 3, 4, dtype=torch.bool)
    region[0, 1, 2] = True
    kernel_map = random(5, 3, 4)
    kernels, weights = center_kernels(kernel_map, random(1, 3, 4, seed=1), region, 3)
    assert weights.tolist() == [[1, 0, 0]]
    assert torch.equal(kernels[0, 0], kernel_map[:, 1, 2])


def test_thing_without_cells_weighs_nothing():
    _, weights = center_kernels(random(5, 3, 4), random(1, 3, 4), torch.zeros(1, 3, 4, dtype=torch.bool), 3)
    assert weights.tolist() == [[0, 0, 0]]


def test_level_of_fewer_cells_than_kernels_gives_what_it_has():
    kernels, weights = center_kernels(random(5, 1, 2), random(1, 1, 2), torch.ones(1, 1, 2, dtype=torch.bool), 7)
    assert kernels.shape == (1, 2, 5)
    assert weights.sum().item() == pytest.approx(1)


def test_kernel_of_a_region_is_divided_by_all_cells():
    kernel_map, regions = random(5, 3, 4), random(2, 3, 4, seed=1) > 0
    expected = torch.stack([kernel_map[:, region].sum(1) / 12 for region in regions])
    torch.testing.assert_close(mean_kernels(kernel_map, regions), expected)
    assert mean_kernels(kernel_map, regions[:0]).shape == (0, 5)


def test_losses_are_divided_by_their_own_numbers(generators):
    """By loops over pictures, levels and segments."""
    out, targets = outputs(2), [picture(seed=10), picture(things=((1,), ()), stuff=((), (1,)), seed=30)]
    sums = dict.fromkeys(("pos_th", "pos_st", "seg_th", "seg_st"), 0.0)
    for number, own in enumerate(targets):
        features = out.features[number].flatten(1)
        for level, truth in enumerate(own.levels):
            things, stuff = out.thing_logits[level][number], out.stuff_logits[level][number]
            kernel_map = out.kernel_maps[level][number]
            sums["pos_th"] += soft_focal_losses(things, truth.heat_map, 0.25, 2).sum()
            sums["pos_st"] += sum(
                soft_focal_losses(*maps, 0.25, 2).mean() for maps in zip(stuff, truth.score_map, strict=True)
            )
            for row, region in zip(truth.things.tolist(), truth.thing_regions, strict=True):
                logits = things[own.thing_classes[row]]
                kernels, weights = center_kernels(kernel_map, logits[None], region[None], 3)
                for kernel, weight in zip(kernels[0], weights[0], strict=True):
                    probs = (generators[0](kernel) @ features).sigmoid()
                    sums["seg_th"] += weight * dice_losses(probs[None, None], own.thing_masks[row].flatten()[None])
            for row, region in zip(truth.stuff.tolist(), truth.stuff_regions, strict=True):
                kernel = mean_kernels(kernel_map, region[None])[0]
                probs = (generators[1](kernel) @ features).sigmoid()
                sums["seg_st"] += dice_losses(probs[None, None], own.stuff_masks[row].flatten()[None])
    found = CRITERION.losses(out, targets, *generators)
    assert found["loss_pos_th"].item() == pytest.approx(sums["pos_th"].item() / 4)  # things on levels
    assert found["loss_pos_st"].item() == pytest.approx(sums["pos_st"].item() / 2)  # pictures
    assert found["loss_seg_th"].item() == pytest.approx(3 * sums["seg_th"].item() / 4)
    assert found["loss_seg_st"].item() == pytest.approx(3 * sums["seg_st"].item() / 4)  # stuff on levels


def test_segment_loss_of_things_reaches_the_positions(generators):
    """The weights of a thing's kernels are not detached in the released code."""
    out = outputs(1)
    CRITERION.losses(out, [picture()], *generators)["loss_seg_th"].backward()
    assert out.thing_logits[0].grad.abs().sum() > 0
    assert all(level.grad is None for level in out.stuff_logits)


def test_picture_without_segments_has_zero_losses_of_them_with_gradients(generators):
    nothing = picture(things=((), ()), stuff=((), ()))
    nothing = dataclasses.replace(nothing, thing_classes=torch.zeros(0, dtype=torch.int64))
    out = outputs(1)
    found = CRITERION.losses(out, [nothing], *generators)
    assert found["loss_seg_th"] == found["loss_seg_st"] == 0
    assert found["loss_pos_th"] > 0
    assert found["loss_pos_st"] > 0
    sum(found.values()).backward()
    for generator in generators:
        assert all(parameter.grad is not None for parameter in generator.parameters())
    assert out.features.grad is not None
