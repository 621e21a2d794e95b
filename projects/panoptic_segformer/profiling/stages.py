"""Seconds of the parts of a model while it runs.

A part is an attribute of the model: a module, or a method that does one step. It is measured by taking its place on
the instance for the time of a run, so a part that torch.compile has replaced is measured as it is.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["SHARED_STAGES", "Profile", "Run", "Stopwatch", "measured_parts", "repeat"]

# Attributes of the model and what they are called here, in the order of the data flow, as far as inference and training
# have them both.
SHARED_STAGES = {
    "preprocess": "preprocess",
    "backbone": "backbone",
    "neck": "neck",
    "encoder": "encoder",
    "location_decoder": "location decoder",
}
# With fewer runs the outer tenths are no more than the outermost runs.
LEAST_RUNS_FOR_PERCENTILES = 10


@dataclass(frozen=True)
class Run:
    """One run: seconds by stage, of which the last one is "total", and what the model returned."""

    seconds: dict[str, float]
    results: object


@dataclass(frozen=True)
class Profile:
    """Several runs of the same.

    Attributes:
        seconds: by stage the seconds of each run, "total" last.
        first_seconds: the total of the very first run, in which libraries set themselves up and torch.compile works.
        results: what the model returned last, or None once that is evaluated.
    """

    seconds: dict[str, list[float]]
    first_seconds: float
    results: object

    def median(self, stage: str) -> float:
        """Return the median seconds of a stage."""
        return statistics.median(self.seconds[stage])

    def spread(self, stage: str) -> tuple[float, float]:
        """Return the 10th and 90th percentile; of fewer than 10 runs the least and the greatest seconds."""
        seconds = self.seconds[stage]
        if not self.has_percentiles:
            return min(seconds), max(seconds)
        tenths = statistics.quantiles(seconds, n=10, method="inclusive")
        return tenths[0], tenths[-1]

    @property
    def has_percentiles(self) -> bool:
        """Whether there are enough runs for percentiles."""
        return len(self.seconds["total"]) >= LEAST_RUNS_FOR_PERCENTILES


class Stopwatch:
    """Adds up seconds by name; on a GPU, work that is not finished is waited for at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the seconds of what happens inside."""
        start = self._now()
        yield
        self.seconds[name] += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextlib.contextmanager
def measured_parts(owner: object, parts: Mapping[str, str], stopwatch: Stopwatch) -> Iterator[None]:
    """Measure parts of an object in what happens inside.

    Args:
        owner: has the parts.
        parts: the name to measure by, for each attribute: a method, a module, or None for a part that is not there.
        stopwatch: gets the seconds.
    """
    with contextlib.ExitStack() as stack:
        for attribute, name in parts.items():
            part = getattr(owner, attribute)
            if isinstance(part, nn.Module):
                stack.enter_context(_replaced(part, "forward", stopwatch, name))
            elif part is not None:
                stack.enter_context(_replaced(owner, attribute, stopwatch, name))
        yield


@contextlib.contextmanager
def _replaced(owner: object, attribute: str, stopwatch: Stopwatch, name: str) -> Iterator[None]:
    """Let a method be measured."""
    method = getattr(owner, attribute)
    own = vars(owner).get(attribute)  # Of the instance already, as after torch.compile.

    def measured(*arguments: object, **options: object) -> object:
        with stopwatch.measure(name):
            return method(*arguments, **options)

    setattr(owner, attribute, measured)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, own)


def repeat(call: Callable[[], Run], runs: int, warm_up: int) -> Profile:
    """Call `warm_up` times, then `runs` times; the former count for `first_seconds` alone."""
    totals, seconds = [], defaultdict(list)
    run = None
    for number in range(warm_up + runs):
        del run  # its results would be in memory beside the next ones
        run = call()
        totals.append(run.seconds["total"])
        if number >= warm_up:
            for stage, value in run.seconds.items():
                seconds[stage].append(value)
    return Profile(dict(seconds), totals[0], run.results)
