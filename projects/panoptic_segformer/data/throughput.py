"""How fast a training's data comes, and how long the training waits for it: what `panseg benchmark-data` measures."""

from __future__ import annotations

import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils.events import EventStorage

from .loading import build_training_loader
from .mapper import PanopticDatasetMapper
from .reading import read_picture

__all__ = ["Rate", "Waiting", "measure_rates", "measure_stages", "measure_waiting"]

# Batches that torch's loader prepares ahead for each of its processes: they do not count.
_AHEAD = 2
# Steps that a training warms up with.
_WARM_UP_STEPS = 2

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rate:
    """Pictures per second that so many loader processes give; 0 processes: the training itself reads."""

    workers: int
    pictures_per_second: float


@dataclass(frozen=True)
class Waiting:
    """Median seconds of a training step, those of them that it waits for data, and the share of all time."""

    step_seconds: float
    waiting_seconds: float
    share: float
    pictures_per_second: float


def measure_rates(cfg: CfgNode, workers: Iterable[int], num_batches: int) -> list[Rate]:
    """Return how many examples per second the loader of DATASETS.TRAIN gives to somebody who only takes them.

    Args:
        cfg: the config; its datasets are registered.
        workers: numbers of loader processes.
        num_batches: batches that are timed for each, behind those that are prepared ahead.
    """
    mapper, rates = PanopticDatasetMapper(cfg, is_train=True), []
    for number in workers:
        own = cfg.clone()
        own.defrost()
        own.DATALOADER.NUM_WORKERS = number
        batches = iter(build_training_loader(own, mapper, seed=0))
        for _ in range(1 + _AHEAD * number):
            next(batches)
        started = time.perf_counter()
        examples = sum(len(batch) for batch in itertools.islice(batches, num_batches))
        rates.append(Rate(number, examples / (time.perf_counter() - started)))
    return rates


def measure_stages(cfg: CfgNode, num_pictures: int) -> dict[str, float]:
    """Return the median milliseconds of one process for the stages of an example of DATASETS.TRAIN, and for all."""
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    decode, decodings = mapper.decode, []
    mapper.decode = lambda entry: _timed(partial(decode, entry), decodings)
    pictures, wholes, others = [], [], []
    entries = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)[:num_pictures]
    for entry in [entries[0], *entries]:  # the first one warms up
        _timed(partial(read_picture, entry["file_name"], mapper.image_format), pictures)
        before = len(decodings)
        _timed(partial(mapper, entry), wholes)
        others.append(wholes[-1] - sum(decodings[before:]))  # a cache may make decoding needless
    columns = {
        "decode picture": pictures,
        "decode and check picture and segments": decodings,
        "the rest: cache, augmentation, targets": others,
        "all": wholes,
    }
    return {name: 1000 * statistics.median(seconds[1:] or [0.0]) for name, seconds in columns.items()}


def measure_waiting(cfg: CfgNode, num_steps: int) -> Waiting:
    """Return how much of a training's time is waiting for data, as the config has it."""
    from ..training.trainer import PanopticTrainer  # it needs the model, the other figures do not

    with tempfile.TemporaryDirectory() as folder, EventStorage() as storage:
        own = cfg.clone()
        own.defrost()
        own.OUTPUT_DIR = folder
        with _quiet():
            trainer = PanopticTrainer(own)
        steps, waits = [], []
        for iteration in range(_WARM_UP_STEPS + num_steps):
            trainer.iter = storage.iter = iteration
            started = time.perf_counter()
            trainer.run_step()
            steps.append(time.perf_counter() - started)
            waits.append(storage.latest()["data_time"][0])
    steps, waits = steps[_WARM_UP_STEPS:], waits[_WARM_UP_STEPS:]
    rate = num_steps * cfg.SOLVER.IMS_PER_BATCH / sum(steps)
    return Waiting(statistics.median(steps), statistics.median(waits), sum(waits) / sum(steps), rate)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Detectron2 tells of a training, all its layers among it."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _timed(work: Callable[[], Result], seconds: list[float]) -> Result:
    """Do some work and add the seconds it took to a list."""
    started = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - started)
    return result
