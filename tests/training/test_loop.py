"""Steps of a training: parts of a batch, precision, the moving average, and numbers that are not finite."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

from panoptic_segformer.training.numerics import NonFiniteError
from panoptic_segformer.training.trainer import PanopticTrainer

BATCH = ("SOLVER.IMS_PER_BATCH", "4", "SEED", "3", "DATALOADER.NUM_WORKERS", "0")
CALM = ("MODEL.PANOPTIC_SEGFORMER.DROPOUT", "0.0")


@pytest.fixture
def trainer(tiny_config):
    """Function that gives a trainer of the tiny model with overrides."""

    def build(*overrides: str) -> PanopticTrainer:
        return PanopticTrainer(tiny_config(*BATCH, *overrides))

    return build


def step(trainer: PanopticTrainer, number: int = 1) -> dict[str, float]:
    """Take steps and return what the last one logged."""
    with EventStorage() as storage:
        for iteration in range(number):
            trainer.iter = storage.iter = iteration
            trainer.run_step()
    return {name: value for name, (value, _) in storage.latest().items()}


def weights(trainer: PanopticTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer._trainer.plain_model.state_dict().items()}


def assert_equal_step(one: PanopticTrainer, other: PanopticTrainer) -> None:
    """One step from equal weights: equal losses, gradients and weights."""
    losses, expected = step(other), step(one)
    names = [name for name in expected if "loss" in name or name == "grad_norm"]
    assert len(names) > 4
    assert {name: losses[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-4)
    pairs = zip(one._trainer.plain_model.named_parameters(), other._trainer.plain_model.parameters(), strict=True)
    for (name, parameter), same in pairs:
        if parameter.grad is not None:
            scale = parameter.grad.abs().max().clamp(min=1e-3)
            assert (parameter.grad - same.grad).abs().max() <= 1e-3 * scale, name
            # Adam divides by the gradient's size, so that tiny gradients of either sign make steps of one length.
            assert (parameter - same).abs().mean() <= 1e-5, name


@pytest.mark.parametrize("form", ["released", "joint", "stuff"])
@pytest.mark.parametrize("parts", ["2", "4"])
def test_parts_make_the_step_of_the_batch(trainer, parts: str, form: str) -> None:
    node = "MODEL.PANOPTIC_SEGFORMER"
    forms = {"released": (), "joint": (f"{node}.QUERIES", "joint"), "stuff": (f"{node}.SEGMENTS", "stuff")}
    options = (*CALM, *forms[form])
    assert_equal_step(trainer(*options), trainer(*options, "SOLVER.ACCUMULATE_STEPS", parts))


def test_counted_targets_are_the_normalisers(trainer) -> None:
    loop = trainer()._trainer
    model, batch = loop.plain_model, next(iter(loop.data_loader))
    counts = model.segment_counts([model.extract_targets(example) for example in batch])
    assert model.count_targets(batch) == (counts.things, counts.stuff)
    assert min(counts.things, counts.stuff) > 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("SOLVER.ACCUMULATE_STEPS", "3"), "ACCUMULATE_STEPS is 3, but each process has 4 pictures"),
        (("SOLVER.ACCUMULATE_STEPS", "0"), "ACCUMULATE_STEPS is 0"),
        (("SOLVER.AMP.PRECISION", "half"), "PRECISION is 'half': set it to 'float16' or 'bfloat16'"),
        (("SOLVER.EMA_DECAY", "1.0"), "EMA_DECAY is 1.0"),
    ],
)
def test_value_that_cannot_be_is_explained(trainer, overrides, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(*overrides)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_close_to_full(trainer, precision: str) -> None:
    half = trainer(*CALM, "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", precision)
    before = weights(half)
    losses, expected = step(half), step(trainer(*CALM))
    assert losses["total_loss"] == pytest.approx(expected["total_loss"], rel=0.03)
    assert ("loss_scale" in losses) == (precision == "float16")
    if precision == "bfloat16":  # the first steps in float16 may be left out, until the scale fits
        assert losses["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.1)
        assert any(not torch.equal(before[name], tensor) for name, tensor in weights(half).items())


def test_moving_average_is_that_of_the_weights(trainer) -> None:
    own, name = trainer("SOLVER.EMA_DECAY", "0.75"), "neck.convs.0.weight"
    assert name in weights(own)
    expected = None
    with EventStorage():
        for iteration in range(3):
            own.iter = iteration
            own.run_step()
            last = weights(own)[name]
            expected = last if expected is None else 0.75 * expected + 0.25 * last
            torch.testing.assert_close(own.ema.module.state_dict()[name], expected)
    assert not torch.equal(expected, last)


def poison(trainer: PanopticTrainer) -> None:
    """Make the presence of stuff, and nothing that is matched, infinite."""
    with torch.no_grad():
        trainer._trainer.plain_model.stuff_mask_decoder.class_heads[0].bias.fill_(math.inf)


def test_step_that_is_not_finite_stops_with_a_report(trainer, tmp_path: Path) -> None:
    own = trainer()
    poison(own)
    before = weights(own)
    pictures = {str(example["image_id"]) for example in next(iter(own.build_train_loader(own.cfg)))}
    with pytest.raises(NonFiniteError) as caught:
        step(own)
    message = str(caught.value)
    assert "iteration 0" in message
    assert "loss_class_stuff_0" in message
    assert "loss_mask_stuff_final" not in message.partition("picture ids")[0]
    assert pictures == set(message.partition("picture ids: ")[2].partition(";")[0].split(", "))
    assert re.search(r"learning rates: \d", message)
    assert "gradient norm by module: backbone" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(own).items())
    assert (tmp_path / "output/not_finite_0000000_rank0.pth").is_file()


def test_cost_that_is_not_finite_stops_with_a_report(trainer, tmp_path: Path) -> None:
    own = trainer()
    with torch.no_grad():
        own._trainer.plain_model.encoder.layers[0].norm2.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"matching costs are not finite.*iteration 0.*picture ids"):
        step(own)
    assert (tmp_path / "output/not_finite_0000000_rank0.pth").is_file()


@pytest.mark.parametrize("precision", [(), ("SOLVER.AMP.ENABLED", "True")])
def test_some_steps_may_be_left_out(trainer, caplog, precision) -> None:
    own = trainer("SOLVER.MAX_SKIPPED_STEPS", "2", *precision)
    poison(own)
    before = weights(own)
    with caplog.at_level(logging.WARNING), pytest.raises(NonFiniteError):
        step(own, 3)
    messages = [record.message for record in caplog.records if "left out" in record.message]
    assert [message.rpartition(": ")[2] for message in messages] == ["number 1 of at most 2", "number 2 of at most 2"]
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(own).items())
