"""Shards in several processes, on one machine or many, by Ray Data: a worker that dies is replaced.

Ray Data starts the workers, gives each its next shard, and a shard whose worker died to another one. That a shard is
whole or not there is not its matter but `ShardPredictor`'s. Reference: https://docs.ray.io/en/latest/data/data.html.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ..optional import import_optional
from .predicting import Job, ShardPredictor

__all__ = ["predict_with_ray"]

EXTRA = "ray"
# How often a shard is begun whose workers die; Ray Data would go on for ever.
MOST_ATTEMPTS = 4
# Bytes of shared memory; only numbers of shards travel. Ray takes no less than 75 MiB.
OBJECT_STORE = 100 * 2**20
# No statistics are sent; and a Ray that is started here listens on 127.0.0.1 alone, as it does on macOS.
PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def predict_with_ray(
    job: Job, numbers: Sequence[int], workers: int, uses_gpu: bool, address: str | None = None
) -> Iterator[int]:
    """Yield the number of each shard when it is finished; those whose workers died every time don't come.

    Args:
        job: for every worker; all machines must see the files that it names under the same paths.
        numbers: of the shards.
        workers: how many models run at a time, each on a core or a GPU of its own.
        uses_gpu: which of the two.
        address: of a running Ray cluster, "auto" for the one that this machine belongs to; None = a Ray of this
            machine's own, for the time of the run.
    Raises: ImportError: if Ray is not installed. ConnectionError: if there is no such cluster. ValueError: if this
        machine has fewer GPUs. OSError: if a shard fails for another reason than its pictures.
    """
    with _running(workers, uses_gpu, address) as data:
        shards = data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
        outcomes = shards.map_batches(
            _Worker,
            fn_constructor_args=(job, os.getcwd()),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=0 if uses_gpu else 1,
            num_gpus=1 if uses_gpu else 0,
        )
        for outcome in outcomes.iter_rows():
            if outcome["error"]:
                raise OSError(f"shard {outcome['shard']} can't be predicted: {outcome['error']}")
            if outcome["is_finished"]:
                yield outcome["shard"]


class _Worker:
    """One model in a process of Ray's."""

    def __init__(self, job: Job, folder: str) -> None:
        os.chdir(folder)  # Configs may name files relative to it.
        self._job = job
        self._predict: ShardPredictor | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Predict a batch of one shard and return what came of it, batched too."""
        (number,) = map(int, batch["shard"])
        error = ""
        has_hope = self._job.places.count_attempt(number) <= MOST_ATTEMPTS
        if has_hope:
            try:
                self._predict = self._predict or ShardPredictor(self._job)
                self._predict(number)
            except Exception as exception:  # Ray would say it in a hundred lines.
                error = str(exception) or type(exception).__name__
        return {"shard": [number], "is_finished": [has_hope], "error": [error]}


@contextmanager
def _running(workers: int, uses_gpu: bool, address: str | None) -> Iterator[ModuleType]:
    """Give Ray Data with a Ray that runs."""
    for name, value in (PRIVATE if address else PRIVATE | LOOPBACK).items():
        os.environ.setdefault(name, value)  # Before Ray is imported.
    ray = import_optional("ray", EXTRA)
    data = import_optional("ray.data", EXTRA)
    shared = {"runtime_env": {"env_vars": _variables()}, "logging_level": logging.WARNING}
    try:
        if address:
            ray.init(address=address, **shared)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=OBJECT_STORE, **shared)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if uses_gpu and not address and gpus < workers:
            raise ValueError(f"{workers} workers need a GPU each, Ray finds {gpus}: give --workers {gpus or 0}")
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = -1  # A shard may take hours.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield data
    finally:
        ray.shutdown()


def _variables() -> dict[str, str]:
    """Return the environment variables that decide where files are looked for."""
    return {name: os.environ[name] for name in ("DETECTRON2_DATASETS", "FVCORE_CACHE") if name in os.environ}
