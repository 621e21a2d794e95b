"""Train several models under one budget and report PQ against iterations and against time.

Each training has a process of its own: models may be greedy, crash or register what another one registers. Time is
that of training steps, reading of pictures included and evaluation left out; on a busy machine the processor time of
all threads is the better measure. It is the training process's alone: DATALOADER.NUM_WORKERS 0 leaves nothing out.
What is equal and what is not: budget.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import logging
import math
import multiprocessing
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, default_setup

from ..data.datasets import register_datasets
from ..profiling.machine import device_name
from ..training.trainer import PanopticTrainer
from ..writing import whole_file
from .budget import Budget, Setup, equal_config, find_differences, inspect_setup

__all__ = ["Point", "Training", "train_equally"]

logger = logging.getLogger(__name__)

# Files of a model's folder. The last one is written when the training is complete.
CONFIG, METRICS, WEIGHTS, RECORD = "config.yaml", "metrics.json", "model_final.pth", "training.json"
# What the evaluator's figures are called in Detectron2's event storage.
TASK = "panoptic_seg/"

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
        iterations: trained before it, in `seconds` of training and `cpu_seconds` of processor time.
        qualities: PQ, SQ and RQ in percent, each also with _th and _st where the dataset has such classes.
    """

    iterations: int
    seconds: float
    cpu_seconds: float
    qualities: Mapping[str, float]


@dataclass(frozen=True)
class Training:
    """What became of one model.

    Attributes:
        name: that the caller gave; config_file: of the model.
        setup: what was trained.
        curve: evaluations in their order, empty after an error.
        threads: of torch; device: that it ran on, by its name.
        error: what stopped it, in one line; "" if nothing did.
    """

    name: str
    config_file: str
    setup: Setup
    curve: Sequence[Point]
    threads: int
    device: str
    error: str = ""


@dataclass(frozen=True)
class _Job:
    """What a process of its own needs to know."""

    config_file: Path
    first_config_file: Path
    budget: Budget
    output_dir: Path

    def config(self) -> CfgNode:
        cfg = equal_config(self.config_file, self.first_config_file, self.budget, self.output_dir)
        register_datasets(cfg)
        return cfg


def train_equally(
    config_files: Mapping[str, Path],
    budget: Budget,
    output_dir: Path,
    *,
    only: Collection[str] = (),
    again: bool = False,
) -> list[Training]:
    """Train models under one budget, and return what became of each, in their order.

    Writes to output_dir/<name> what Detectron2 writes of a training, and equal_budget.json. Models whose training is
    complete under the same terms are not trained again.

    Args:
        config_files: config by the model's name; the first one sets the terms.
        budget: what each model gets.
        output_dir: receives the results.
        only: names of the models to train now, empty = all; of the others, complete trainings are reported.
        again: train again what is complete.
    Raises: ValueError: if names can't be those of folders or are unknown, or configs can't be had on equal terms (lists
        all of them, before anything is trained).
    """
    _check_names(config_files, only)
    first_config_file = next(iter(config_files.values()))
    jobs = {name: _Job(path, first_config_file, budget, output_dir / name) for name, path in config_files.items()}
    setups = _equal_setups(jobs)
    trainings = []
    for name, job in jobs.items():
        is_wanted = not only or name in only
        training = None if again and is_wanted else _complete_training(name, job, setups[name])
        if training is None and is_wanted:
            training = _train_apart(name, job, setups[name])
        if training is not None:
            trainings.append(training)
            _write_report(trainings, budget, output_dir)
    return trainings


def _check_names(config_files: Mapping[str, Path], only: Collection[str]) -> None:
    if not config_files:
        raise ValueError("there is no config to train: give at least one")
    for name in config_files:
        if not name.strip(". ") or Path(name).name != name:
            raise ValueError(f"{name!r} can't be the name of a folder: give the model another name")
    unknown = [name for name in only if name not in config_files]
    if unknown:
        raise ValueError(f"there is no model {unknown[0]!r}: choose among {', '.join(config_files)}")


def _equal_setups(jobs: Mapping[str, _Job]) -> dict[str, Setup]:
    """Return the setup of each model.

    Raises: ValueError: if some can't be built or are not on the first one's terms.
    """
    try:
        inspected = _in_own_process(_inspect_all, jobs)
    except RuntimeError as error:
        raise ValueError(f"the models can't be built: {error}") from error
    setups = {name: setup for name, setup in inspected.items() if isinstance(setup, Setup)}
    misfits = [f"{name}: {error}" for name, error in inspected.items() if name not in setups]
    first = setups.get(next(iter(jobs)))
    if first is not None:
        for name, setup in setups.items():
            misfits += [f"{name}: {difference}" for difference in find_differences(setup, first)]
    if misfits:
        raise ValueError("\n- ".join(["not all models can be trained on equal terms:", *misfits]))
    return setups


def _inspect_all(jobs: Mapping[str, _Job]) -> dict[str, Setup | str]:
    """Return the setup of each model, or the error in its place; for a process of its own."""
    return {name: _inspect(job) for name, job in jobs.items()}


def _inspect(job: _Job) -> Setup | str:
    try:
        return inspect_setup(job.config())
    except Exception as error:
        return _one_line(error)


def _complete_training(name: str, job: _Job, setup: Setup) -> Training | None:
    """Return the training of an earlier run, None unless it is complete and of the same setup."""
    files = [job.output_dir / file for file in (CONFIG, WEIGHTS, RECORD)]
    if not all(path.is_file() for path in files) or files[0].read_text(encoding="utf-8") != setup.config:
        return None
    record = json.loads(files[-1].read_text(encoding="utf-8"))
    if record["threads"] != job.budget.threads:
        return None
    logger.info("%s is complete: %s", name, job.output_dir)
    curve = [Point(**point) for point in record["curve"]]
    return Training(name, str(job.config_file), setup, curve, record["threads"], record["device"])


def _train_apart(name: str, job: _Job, setup: Setup) -> Training:
    """Train a model in a process of its own and keep the record; errors become part of the result."""
    for file in (METRICS, WEIGHTS, RECORD):  # The trainer would put the metrics aside.
        (job.output_dir / file).unlink(missing_ok=True)
    try:
        curve, device = _in_own_process(_train, job)
    except Exception as error:
        logger.error("%s failed: %s", name, error)
        return Training(name, str(job.config_file), setup, (), job.budget.threads, "", _one_line(error))
    training = Training(name, str(job.config_file), setup, curve, job.budget.threads, device)
    _write_json(_record(training), job.output_dir / RECORD)
    return training


def _train(job: _Job) -> tuple[list[Point], str]:
    """Train and return the curve and the name of the device; for a process of its own."""
    torch.set_num_threads(job.budget.threads)
    cfg = job.config()
    default_setup(cfg, argparse.Namespace(config_file=str(job.config_file), eval_only=False))
    trainer = _MeasuredTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer.curve, device_name(torch.device(cfg.MODEL.DEVICE).type)


class _MeasuredTrainer(PanopticTrainer):
    """Takes the time of its steps, and keeps every evaluation."""

    def __init__(self, cfg: CfgNode) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.curve: list[Point] = []
        super().__init__(cfg)

    def run_step(self) -> None:
        """Do one iteration."""
        seconds, cpu_seconds = time.perf_counter(), time.process_time()
        super().run_step()
        device = torch.device(self.cfg.MODEL.DEVICE)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds += time.perf_counter() - seconds
        self.cpu_seconds += time.process_time() - cpu_seconds

    def build_hooks(self) -> list[HookBase]:
        """Return the usual hooks, and behind them one that keeps what they evaluated."""
        return [*super().build_hooks(), _CurveKeeper()]


class _CurveKeeper(HookBase):
    """Adds a point to the trainer's curve after each evaluation."""

    def after_step(self) -> None:
        """Keep an evaluation between iterations."""
        self._keep(self.trainer.iter + 1)

    def after_train(self) -> None:
        """Keep the last evaluation."""
        self._keep(self.trainer.iter)

    def _keep(self, iterations: int) -> None:
        storage = self.trainer.storage
        qualities = {
            key.removeprefix(TASK): value
            for key, (value, iteration) in storage.latest().items()
            if key.startswith(TASK) and "-" not in key  # PQ-<class> is left out
            if iteration == storage.iter and math.isfinite(value)
        }
        if qualities:
            self.trainer.curve.append(Point(iterations, self.trainer.seconds, self.trainer.cpu_seconds, qualities))


def _in_own_process(function: Callable[[Argument], Result], argument: Argument) -> Result:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        try:
            return processes.submit(_call_as_main, function, argument).result()
        except BrokenProcessPool as error:
            raise RuntimeError("its process ended without a result, perhaps for want of memory") from error


def _call_as_main(function: Callable[[Argument], Result], argument: Argument) -> Result:
    """Call with the system's way of starting processes.

    A spawned process would spawn its own too: panopticapi's would import everything anew at each evaluation.
    """
    multiprocessing.set_start_method(None, force=True)
    return function(argument)


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _write_report(trainings: Sequence[Training], budget: Budget, output_dir: Path) -> None:
    report = {
        "budget": dataclasses.asdict(budget),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "trainings": [_record(training) for training in trainings],
    }
    _write_json(report, output_dir / "equal_budget.json")


def _record(training: Training) -> dict[str, Any]:
    """Return what json keeps; the config lies beside the weights."""
    record = dataclasses.asdict(training)
    del record["setup"]["config"]
    return record


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
