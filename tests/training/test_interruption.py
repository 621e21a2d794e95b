"""Signals end a training behind a checkpoint, and it goes on from there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from detectron2.engine import HookBase

from panoptic_segformer.training.trainer import PanopticTrainer
from tiny import words

SETTINGS = words(
    {"SOLVER.MAX_ITER": "4", "SOLVER.CHECKPOINT_PERIOD": "1000", "DATASETS.TEST": "()", "DATALOADER.NUM_WORKERS": "0"}
)


class Signal(HookBase):
    """Sends the training a signal in the middle of an iteration, once or more."""

    def __init__(self, number: int, times: int = 1) -> None:
        self.number, self.times = number, times

    def before_step(self) -> None:
        if self.trainer.iter == 1:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_ends_the_training_behind_a_checkpoint(tiny_config, tmp_path: Path, number: int) -> None:
    earlier = signal.getsignal(number)
    cfg = tiny_config(*SETTINGS)
    trainer = PanopticTrainer(cfg)
    trainer.register_hooks([Signal(number)])
    with pytest.raises(SystemExit) as caught:
        trainer.train()
    assert caught.value.code == 128 + number
    assert (tmp_path / "output/last_checkpoint").read_text() == "model_0000001.pth"
    assert signal.getsignal(number) is earlier
    again = PanopticTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 2


def test_second_ctrl_c_ends_it_at_once(tiny_config, tmp_path: Path) -> None:
    trainer = PanopticTrainer(tiny_config(*SETTINGS))
    trainer.register_hooks([Signal(signal.SIGINT, times=2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not list((tmp_path / "output").glob("model_*"))
