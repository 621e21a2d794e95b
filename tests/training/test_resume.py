"""A training that was interrupted ends with the very weights of one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from panoptic_segformer.training.trainer import PanopticTrainer

# Dropout, cropping and flips draw random numbers in every step.
OPTIONS = ("SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.EMA_DECAY", "0.5", "SEED", "7")


def train(cfg, resume: bool = False) -> dict[str, object]:
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return torch.load(Path(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)


def assert_same(one, other, where: str = "") -> None:
    """Everything in two checkpoints is equal to the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_same(value, other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{where}/{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize("workers", ["0", "2"])
def test_interrupted_training_ends_bit_equal(tiny_config, tmp_path, workers: str) -> None:
    whole = train(tiny_config(*OPTIONS, "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "whole")))
    cfg = tiny_config(*OPTIONS, "DATALOADER.NUM_WORKERS", workers, "OUTPUT_DIR", str(tmp_path / "parts"))
    first = PanopticTrainer(cfg)
    first.resume_or_load(resume=True)
    first.max_iter = 4
    first.train()
    assert_same(whole, train(cfg, resume=True))


def test_training_that_lacks_its_final_checkpoint_alone_gets_it(tiny_config, tmp_path) -> None:
    """It was killed between the last numbered checkpoint and the final one: no step is left to write it behind."""
    cfg = tiny_config(*OPTIONS, "DATASETS.TEST", "()")
    whole = train(cfg)
    Path(cfg.OUTPUT_DIR, "model_final.pth").unlink()
    Path(cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_0000005.pth")
    assert_same(whole, train(cfg, resume=True))
