"""Networks whose numbers are not finite: no step is taken, and the report leads to the cause."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from trainings import Row, config, run, train

from panoptic_segformer.checkpoint.loading import read_checkpoint
from panoptic_segformer.training.reproduction import reproduce

# Parts of the model, and what their largest weight is filled with.
PARTS = ("backbone", "neck", "encoder", "location_decoder", "thing_mask_decoder", "stuff_mask_decoder")
VALUES = (math.nan, math.inf)
# Iteration before which a weight is spoiled.
SPOILED = 5


def spoil_weights(folder: Path) -> Row:
    """Put infinite weights into each part in the middle of a training, in full and in half precision."""
    losses, tried = [], 0
    for part in PARTS:
        for value in VALUES:
            for amp in ("False", "True"):
                tried += 1
                output = folder / f"{part}_{value}_{amp}"
                lost = _train(output, part, value, amp)
                losses += [f"{value} in {part}, AMP {amp}: {lost}"] if lost else []
    expected = "stops before the step; iteration, term, picture ids, learning rates; the file gives the same again"
    return Row("weights that are nan or infinite, in each part, full and half precision", tried, expected, losses)


def _train(output: Path, part: str, value: float, amp: str) -> str:
    """Return what went wrong, "" if nothing."""
    log = output.with_suffix(".log")
    cfg = config(output, SOLVER__AMP__ENABLED=amp, SOLVER__AMP__PRECISION="bfloat16", DATALOADER__NUM_WORKERS="0")
    ended = run(lambda: train(cfg, _spoiler(part, value)), log)
    message = ended.text.rpartition("NonFiniteError: ")[2]
    needed = (f"iteration {SPOILED}", "picture ids: ", "learning rates: ")
    if not ended.code or any(words not in message for words in needed):
        return f"exit code {ended.code}: {message[:200]}"
    (report,) = output.glob("not_finite_*.pth")
    return "" if not reproduce(read_checkpoint(report)).is_finite else "the report's file computes finite numbers"


def _spoiler(part: str, value: float) -> Callable[[object], None]:
    def prepare(trainer: object) -> None:
        take_step = trainer.run_step

        def spoil_and_step() -> None:
            if trainer.iter == SPOILED:
                with torch.no_grad():
                    parameters = getattr(trainer._trainer.plain_model, part).parameters()
                    max(parameters, key=torch.Tensor.numel).fill_(value)
            take_step()

        trainer.run_step = spoil_and_step

    return prepare
