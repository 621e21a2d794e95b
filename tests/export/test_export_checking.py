"""Candidates are compared as a set; differences of every kind are found."""

from __future__ import annotations

import pytest
import torch

from panoptic_segformer.export.checking import (
    CUT_ROUNDING,
    Parity,
    check_parity,
    largest_errors,
    parity_table,
    scene_image,
)
from panoptic_segformer.export.network import ExportableNetwork

SIZE = (97, 131)
THINGS, STUFF = 6, 3


@pytest.fixture
def outputs() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    things = torch.rand(THINGS, generator=random).sort(descending=True).values + 0.1
    return {
        "masks": torch.rand(THINGS + STUFF, 4, 5, generator=random),
        "class_probs": torch.cat([things, torch.rand(STUFF, generator=random)]),
        "category_ids": torch.tensor([0, 1, 0, 0, 1, 1, 2, 3, 4]),
        "is_thing": torch.arange(THINGS + STUFF) < THINGS,
        "boxes": torch.rand(THINGS, 4, generator=random),
    }


def changed(outputs, name: str, index, amount: float) -> dict[str, torch.Tensor]:
    tensor = outputs[name].clone()
    tensor[index] += amount
    return {**outputs, name: tensor}


def permuted(outputs, order: list[int]) -> dict[str, torch.Tensor]:
    return {name: tensor[[i for i in order if i < len(tensor)]] for name, tensor in outputs.items()}


def test_equal_outputs_have_no_errors(outputs):
    assert set(largest_errors(outputs, outputs).values()) == {0.0}


def test_order_does_not_count(outputs):
    other = permuted(outputs, [2, 0, 1, 5, 4, 3, 7, 6, 8])
    assert set(largest_errors(other, outputs).values()) == {0.0}


@pytest.mark.parametrize(("name", "index"), [("masks", (1, 2, 3)), ("class_probs", 0), ("boxes", (2, 3)), ("masks", 8)])
def test_errors_are_found_where_they_are(outputs, name, index):
    errors = largest_errors(changed(outputs, name, index, 0.01), outputs)
    assert errors.pop(name) == pytest.approx(0.01, rel=1e-4)
    assert set(errors.values()) == {0.0}


def test_other_class_is_counted(outputs):
    errors = largest_errors(changed(outputs, "category_ids", 0, 7), outputs)
    assert errors["category_ids"] == 1


def test_candidate_at_the_cut_may_be_another(outputs):
    last = THINGS - 1
    other = changed(changed(outputs, "masks", last, 0.5), "class_probs", last, CUT_ROUNDING / 4)
    assert largest_errors(other, outputs)["masks"] == 0
    above = changed(changed(outputs, "masks", last, 0.5), "class_probs", last, 3 * CUT_ROUNDING)
    assert largest_errors(above, outputs)["masks"] == pytest.approx(0.5)
    assert largest_errors(changed(outputs, "masks", 0, 0.5), outputs)["masks"] == pytest.approx(0.5)


def test_what_is_not_a_number_is_an_error(outputs):
    assert largest_errors(changed(outputs, "masks", 3, torch.nan), outputs)["masks"] == torch.inf


def test_other_shape_is_refused(outputs):
    with pytest.raises(ValueError, match=r"masks have shape \[9, 4, 4\], the model's \[9, 4, 5\]"):
        largest_errors({**outputs, "masks": outputs["masks"][..., :4]}, outputs)


def test_model_agrees_with_itself_and_not_with_another(small_model):
    network, image = ExportableNetwork(small_model), scene_image(SIZE, "RGB")
    same = check_parity(small_model, network.outputs, image)
    assert (set(same.errors.values()), same.agreement, same.size) == ({0.0}, 1.0, SIZE)
    assert not same.fails(1e-9)
    assert same.segments > 3

    def wrong(image):
        outputs = network.outputs(image)
        return {**outputs, "masks": outputs["masks"].flip(-1)}

    other = check_parity(small_model, wrong, image)
    assert other.fails(1e-3)
    assert other.agreement < 0.99


@pytest.mark.parametrize(
    ("errors", "agreement", "fails"),
    [
        ({"masks": 0.009}, 1.0, False),
        ({"masks": 0.011}, 1.0, True),
        ({"category_ids": 1.0}, 1.0, True),
        ({"masks": 0.0}, 0.998, True),
    ],
)
def test_failure_is_relative_to_the_largest_value(errors, agreement, fails):
    zero = {"masks": 0.0, "class_probs": 0.0, "boxes": 0.0, "category_ids": 0.0}
    scales = {"masks": 10.0, "class_probs": 1.0, "boxes": 1.0, "category_ids": 1.0}
    assert Parity(SIZE, zero | errors, scales, agreement, 5).fails(1e-3) is fails


def test_table_has_a_line_per_picture(small_model):
    check = check_parity(small_model, ExportableNetwork(small_model).outputs, scene_image(SIZE, "RGB"))
    assert parity_table([check, check]).count("97x131") == 2


def test_scene_comes_in_both_channel_orders():
    assert torch.equal(scene_image(SIZE, "RGB"), scene_image(SIZE, "BGR").flip(0))
    assert scene_image(SIZE, "RGB").shape == (3, *SIZE)
