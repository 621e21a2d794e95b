"""What a model costs: parameters, FLOPs, time for a picture, memory.

Runs in the process of one model. Times are of the whole call, merging and resizing of the results included, reading
and resizing of the picture not. What can't be measured is missing among the numbers and explained in the facts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..analysis.cost import count_flops, count_parameters
from ..profiling.memory import MemoryUnknownError, in_fresh_process, peak_memory
from .blueprint import Blueprint
from .job import Job

__all__ = ["TIMED_PICTURES", "measure_costs"]

# The first pictures of a comparison are timed; runs of each are a choice of the caller.
TIMED_PICTURES = 10
# Calls before the timed ones, by device: GPUs choose kernels and clocks meanwhile.
WARM_UP = {"cpu": 2, "cuda": 10}

Costs = dict[str, float]
Facts = dict[str, str]


def measure_costs(
    model: nn.Module, blueprint: Blueprint, job: Job, build: Callable[[Job], tuple[nn.Module, Blueprint]]
) -> tuple[Costs, Facts]:
    """Return numbers and facts by the names of `ModelResult`.

    Args:
        model: with its weights, in inference mode.
        blueprint: of the model.
        job: says what is measured on which pictures.
        build: a module's function that makes the model of a job again, for the process that measures memory.
    """
    sizes = count_parameters(model)
    costs: Costs = {"parameters": sizes.total, "trainable": sizes.trainable}
    facts: Facts = {}
    device = next(model.parameters()).device
    inputs = [blueprint.inputs(picture.path) for picture in job.pictures[:TIMED_PICTURES]]
    for found, explained in (
        _time_calls(model, inputs, job.runs, device),
        _measure_memory(model, inputs[0], job, build, device),
        _count_flops(model, inputs[0][0]["image"], job.flops_size),
    ):
        costs.update(found)
        facts.update(explained)
    return costs, facts


@torch.inference_mode()
def _time_calls(
    model: nn.Module, inputs: Sequence[list[dict[str, Any]]], runs: int, device: torch.device
) -> tuple[Costs, Facts]:
    synchronize = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    # Each size of input has a first call of its own, in which kernels are chosen and memory is taken.
    warm_up = max(WARM_UP[device.type], len(inputs))
    for number in range(warm_up):
        model(inputs[number % len(inputs)])
    seconds = []
    for _ in range(runs):
        for example in inputs:
            synchronize()
            start = time.perf_counter()
            model(example)
            synchronize()
            seconds.append(time.perf_counter() - start)
    median, slow = np.percentile(seconds, [50, 90])
    words = f"{len(seconds)} calls with one picture each ({len(inputs)} pictures, {runs} runs) after {warm_up} others"
    return {"latency_ms": 1000 * float(median), "latency_p90_ms": 1000 * float(slow)}, {"latency": words}


def _measure_memory(
    model: nn.Module,
    example: list[dict[str, Any]],
    job: Job,
    build: Callable[[Job], tuple[nn.Module, Blueprint]],
    device: torch.device,
) -> tuple[Costs, Facts]:
    if device.type == "cuda":
        return {"peak_memory": _peak_of_call(model, example)}, {}
    try:
        return {"peak_memory": in_fresh_process(_peak_of_job, job, build)}, {}
    except Exception as error:  # Models of others can fail in any way in a second process.
        reason = str(error) if isinstance(error, MemoryUnknownError) else f"{type(error).__name__}: {error}"
        return {}, {"peak memory": f"unknown: {' '.join(reason.split())}"}


def _peak_of_job(job: Job, build: Callable[[Job], tuple[nn.Module, Blueprint]]) -> int:
    model, blueprint = build(job)
    return _peak_of_call(model, blueprint.inputs(job.pictures[0].path))


@torch.inference_mode()
def _peak_of_call(model: nn.Module, example: list[dict[str, Any]]) -> int:
    model(example)  # Libraries take memory for good at first use.
    return peak_memory(lambda: model(example), next(model.parameters()).device)[0]


def _count_flops(model: nn.Module, image: torch.Tensor, size: tuple[int, int] | None) -> tuple[Costs, Facts]:
    if size is not None:
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    height, width = image.shape[-2:]
    try:
        flops = count_flops(model, (height, width), image)
    except Exception as error:  # Models of others can fail in any way when they are traced.
        return {}, {"FLOPs": f"unknown, the model can't be traced: {type(error).__name__}: {error}".splitlines()[0]}
    uncounted = ", ".join(f"{name} ({number})" for name, number in sorted(flops.uncounted.items()))
    facts = {"FLOPs": f"multiply-adds at {height}x{width} (height x width)", "operators without a count": uncounted}
    return {"flops": flops.total}, facts
