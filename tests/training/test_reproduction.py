"""The file of a step that was not finite gives the same numbers again."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.utils.events import EventStorage

from panoptic_segformer.checkpoint.loading import read_checkpoint
from panoptic_segformer.cli import main
from panoptic_segformer.training.numerics import NonFiniteError, Step, write_reproduction
from panoptic_segformer.training.reproduction import reproduce
from panoptic_segformer.training.trainer import PanopticTrainer


@pytest.fixture
def trainer(tiny_config) -> PanopticTrainer:
    return PanopticTrainer(tiny_config("SEED", "3", "DATALOADER.NUM_WORKERS", "0"))


def test_finite_step_gives_the_same_losses(trainer, tmp_path) -> None:
    """Dropout too: the step's random numbers depend on seed and iteration."""
    loop = trainer._trainer
    batch = next(iter(trainer.build_train_loader(trainer.cfg)))
    path = tmp_path / "step.pth"
    step = Step(iteration=0, seed=3, rank=0, examples=batch, losses={}, rates=[], norms={})
    write_reproduction(path, step, loop.plain_model, trainer.cfg.dump())
    with EventStorage() as storage:
        trainer.iter = 0
        trainer.run_step()
    again = reproduce(read_checkpoint(path))
    logged = {name: storage.latest()[name][0] for name in again.losses}
    assert again.losses == pytest.approx(logged, rel=1e-6)
    assert again.is_finite
    assert again.first_module == ""


def test_infinite_weight_is_found(trainer, tmp_path, capsys) -> None:
    with torch.no_grad():
        trainer._trainer.plain_model.encoder.layers[0].norm1.bias[0] = math.inf
    trainer.iter = 0
    with EventStorage(), pytest.raises(NonFiniteError):
        trainer.run_step()
    (path,) = (tmp_path / "output").glob("not_finite_*.pth")
    again = reproduce(read_checkpoint(path))
    assert not again.is_finite
    assert again.first_module == "encoder.layers.0.norm1"
    assert main(["reproduce", str(path)]) == 0
    assert "the first output that is not finite is that of encoder.layers.0.norm1" in capsys.readouterr().out


def test_other_file_is_refused(tmp_path, capsys) -> None:
    torch.save({"model": {}}, tmp_path / "other.pth")
    assert main(["reproduce", str(tmp_path / "other.pth")]) == 2
    assert "lacks config, examples, iteration" in capsys.readouterr().err
