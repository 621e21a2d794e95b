"""Dice losses at points of masks: their values, their gradients and what they keep."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from panoptic_segformer.data.mapper import PanopticDatasetMapper
from panoptic_segformer.modeling.mask_attention import QUERIES_PER_PART
from panoptic_segformer.modeling.mask_decoder import ThingMaskDecoder
from panoptic_segformer.training.losses import dice_losses
from panoptic_segformer.training.mask_losses import choose_points, dice_at_points, mask_dice_sums
from panoptic_segformer.training.optimizer import build_optimizer
from panoptic_segformer.training.targets import resize_masks

SIZES = [(12, 16), (6, 8), (3, 4)]
PICTURE = (96, 128)
MASK_POINTS = "MODEL.PANOPTIC_SEGFORMER.LOSS.MASK_POINTS"


def squares(number: int) -> torch.Tensor:
    """Return masks (N, H, W) of rectangles; resized to a quarter they are the same."""
    generator = torch.Generator().manual_seed(3)
    masks = torch.zeros(number, *PICTURE, dtype=torch.bool)
    for mask in masks:
        top, left = (4 * int(torch.randint(0, side // 8, (), generator=generator)) for side in PICTURE)
        mask[top : top + 36, left : left + 52] = True
    return masks


@pytest.fixture
def decode():
    """Function that gives a decoder's maps of N queries, with the decoder and the memory that gradients reach."""

    def run(number: int):
        torch.manual_seed(0)
        decoder = ThingMaskDecoder(num_classes=3, dim=32, num_heads=4, feedforward_dim=32, num_blocks=2)
        memory = torch.randn(1, sum(height * width for height, width in SIZES), 32, requires_grad=True)
        return decoder(torch.randn(1, number, 32), memory, SIZES), decoder, memory

    return run


def grid_points(size: tuple[int, int]) -> torch.Tensor:
    """Return the centres of all cells (H * W, 2), (x, y) in [0, 1]."""
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
    return torch.stack([(columns + 0.5) / size[1], (rows + 0.5) / size[0]], dim=-1).flatten(0, 1)


def test_points_at_all_cells_are_the_whole_mask():
    torch.manual_seed(0)
    masks = torch.rand(5, *SIZES[0], dtype=torch.float64)
    size = (2 * SIZES[0][0], 2 * SIZES[0][1])
    targets = torch.rand(5, *size) > 0.7
    whole = dice_losses(F.interpolate(masks[None], size, mode="bilinear")[0], targets.double())
    points = grid_points(size).expand(5, -1, -1).double()
    assert torch.allclose(dice_at_points(masks, targets, points), whole, rtol=1e-12)


def test_points_anywhere_are_the_whole_mask_in_expectation():
    torch.manual_seed(0)
    masks, targets = F.interpolate(torch.rand(1, 3, 3, 4), SIZES[0], mode="bilinear")[0], squares(3)
    size = (2 * SIZES[0][0], 2 * SIZES[0][1])
    whole = dice_losses(F.interpolate(masks[None], size, mode="bilinear")[0], resize_masks(targets, size, masks.dtype))
    sampled = dice_at_points(masks, targets, torch.rand(3, 200_000, 2))
    assert torch.allclose(sampled, whole, atol=0.01)
    assert whole.min() > 0.3  # far from where all losses are alike


@given(height=st.integers(1, 5), width=st.integers(1, 5), scale=st.integers(1, 9), x=st.floats(0, 1), y=st.floats(0, 1))
def test_point_is_bilinear_in_the_mask_and_a_pixel_of_the_truth(height, width, scale, x, y):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(height, width, dtype=torch.float64, generator=generator)
    truth = torch.rand(height * scale, width * scale, generator=generator) > 0.5

    def cell(position: float, length: int) -> tuple[int, int, float]:
        place = min(max(position * length - 0.5, 0.0), length - 1.0)
        return int(place), min(int(place) + 1, length - 1), place - int(place)

    (top, bottom, down), (left, right, along) = cell(y, height), cell(x, width)
    upper = mask[top, left] * (1 - along) + mask[top, right] * along
    lower = mask[bottom, left] * (1 - along) + mask[bottom, right] * along
    value = upper * (1 - down) + lower * down
    row, column = min(int(y * height * scale), height * scale - 1), min(int(x * width * scale), width * scale - 1)
    inside = float(truth[row, column])
    expected = 1 - 2 * value * inside / (value**2 + inside + 2e-6)
    point = torch.tensor([[[x, y]]], dtype=torch.float64)
    assert dice_at_points(mask[None], truth[None], point).item() == pytest.approx(expected.item(), abs=1e-9)


def test_three_quarters_of_the_points_lie_where_the_mask_is_least_decided():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(2, 48, 64)  # 0.5 is at x = 0.5
    points = choose_points(ramp, 400)
    assert points.shape == (2, 400, 2)
    assert ((points >= 0) & (points <= 1)).all()
    distances = (points[..., 0] - 0.5).abs()
    assert (distances[:, :300] < 0.2).all()  # the nearest 300 of 1200 are within 0.125, give or take chance
    assert (distances[:, 300:] > 0.2).any()


@pytest.mark.parametrize("number", [3, QUERIES_PER_PART + 8])
def test_gradients_are_those_of_the_points_chosen_in_the_forward_pass(decode, number):
    targets, queries = squares(number), torch.randperm(number)
    maps, decoder, memory = decode(number)
    torch.manual_seed(1)
    losses = mask_dice_sums(maps, queries, targets, 64)
    torch.rand(7)  # what else draws numbers before the backward pass
    losses.sum().backward()
    actual = [memory.grad, *(p.grad for p in decoder.parameters() if p.grad is not None)]

    maps, decoder, memory = decode(number)
    torch.manual_seed(1)
    expected_losses = []
    for attention in maps:
        parts = zip(queries.split(QUERIES_PER_PART), targets.split(QUERIES_PER_PART), strict=True)
        masks = [(attention.masks(own)[0], truth) for own, truth in parts]
        expected_losses.append(sum(dice_at_points(m, t, choose_points(m, 64)).sum() for m, t in masks))
    assert torch.allclose(losses, torch.stack(expected_losses), rtol=1e-6)
    sum(expected_losses).backward()
    expected = [memory.grad, *(p.grad for p in decoder.parameters() if p.grad is not None)]
    assert len(actual) == len(expected) > 10
    assert all(torch.allclose(a, e, rtol=1e-4, atol=1e-7) for a, e in zip(actual, expected, strict=True))
    assert memory.grad.abs().max() > 0


def kept_bytes(compute, *given_tensors) -> int:
    """Return the bytes that a computation keeps for its backward pass beyond what it is given."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = compute()
    assert losses.requires_grad
    own = {tensor.untyped_storage().data_ptr() for tensor in given_tensors}
    return sum(size for pointer, size in kept.items() if pointer not in own)


def test_points_keep_a_hundredth_of_what_whole_masks_keep(decode):
    number = 20
    maps, targets, queries = decode(number)[0], squares(number), torch.arange(number)
    given_tensors = [targets, queries, *(tensor for attention in maps for tensor in (attention.q, attention.k))]
    whole = kept_bytes(lambda: mask_dice_sums(maps, queries, targets), *given_tensors)
    points = kept_bytes(lambda: mask_dice_sums(maps, queries, targets, 64), *given_tensors)
    assert points < 0.01 * whole


def test_seed_decides_the_points(decode):
    maps, targets, queries = decode(4)[0], squares(4), torch.arange(4)
    losses = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(mask_dice_sums(maps, queries, targets, 32))
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_half_precision_is_summed_in_float32():
    masks, targets = torch.rand(2, *SIZES[0]), squares(2)
    assert choose_points(masks.double(), 8).dtype == torch.float64
    assert dice_at_points(masks, targets, choose_points(masks, 8)).dtype == torch.float32


@pytest.mark.parametrize("num_points", [0, 16])
def test_no_masks_are_a_loss_of_zero_in_the_graph(decode, num_points):
    maps, decoder, _ = decode(3)
    losses = mask_dice_sums(maps, torch.zeros(0, dtype=torch.int64), squares(0), num_points)
    assert losses.tolist() == [0.0, 0.0, 0.0]
    losses.sum().backward()
    assert decoder.final_attention.fusion.fuse.weight.grad is not None


def test_models_compare_masks_at_points(tiny_config):
    losses = {}
    for number in ("0", "50"):
        cfg = tiny_config(MASK_POINTS, number, "INPUT.RANDOM_FLIP", "none", "MODEL.PANOPTIC_SEGFORMER.DROPOUT", "0.0")
        torch.manual_seed(0)
        model = build_model(cfg).train()
        example = PanopticDatasetMapper(cfg, is_train=True)(DatasetCatalog.get("synthetic_train")[0])
        losses[number] = model([example])
    assert set(losses["0"]) == set(losses["50"])
    for name, loss in losses["0"].items():
        is_same = loss.item() == pytest.approx(losses["50"][name].item(), rel=1e-6)
        assert is_same != ("mask" in name), name


def test_masks_are_learned_from_points(tiny_config):
    cfg = tiny_config(MASK_POINTS, "100", "INPUT.RANDOM_FLIP", "none", "MODEL.PANOPTIC_SEGFORMER.DROPOUT", "0.0")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    examples = [mapper(record) for record in DatasetCatalog.get("synthetic_train")[:2]]
    optimizer = build_optimizer(cfg, model)

    def whole_mask_losses() -> float:
        model.criterion.mask_points = 0
        with torch.no_grad():
            losses = model(examples)
        model.criterion.mask_points = 100
        return sum(loss.item() for name, loss in losses.items() if "mask" in name)

    before = whole_mask_losses()
    for _ in range(40):
        optimizer.zero_grad()
        sum(model(examples).values()).backward()
        optimizer.step()
    assert whole_mask_losses() < 0.7 * before


def test_negative_numbers_of_points_are_refused(tiny_config):
    with pytest.raises(ValueError, match="LOSS.MASK_POINTS is -1: set it to 0 or more"):
        build_model(tiny_config(MASK_POINTS, "-1"))
