"""What the benchmark of multi-scale deformable attention measured, and the figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cases import CHANNELS, HEADS, POINTS, Case
from implementations import Contender
from memory import CaseMemory
from rates import Rates
from timing import Times, best

__all__ = ["CaseResult", "Key", "Results", "Work"]


class Key(NamedTuple):
    """What was timed: an implementation in a dtype, and the pass of it."""

    name: str
    dtype: str
    pass_: str


@dataclass(frozen=True)
class Work:
    """What one pass has to do at least, whatever the implementation.

    Attributes:
        traffic: bytes of all inputs and results, each once per direction.
        operations: multiplications and additions of the corners, samples outside the level included.
        corners: bytes of the corners that the forward reads, each row once per sample that uses it.
    """

    traffic: int
    operations: int
    corners: int

    @classmethod
    def of(cls, contender: Contender, pass_: str) -> Work:
        """Count what a pass of a contender takes."""
        value, offsets_or_locations = contender.tensors[0], contender.tensors[-2]
        inputs = sum(tensor.nbytes for tensor in contender.tensors)
        output = contender.grad_output.nbytes
        rows = 4 * offsets_or_locations.numel() // 2
        corners = rows * value.shape[-1]
        if pass_ == "forward":
            return cls(inputs + output, 2 * corners, corners * value.element_size())
        gradients = sum(tensor.nbytes for tensor in contender.tensors if tensor.requires_grad)
        # Backward multiplies each corner twice: with its gradient's weight, and with the gradient for the weight's.
        return cls(2 * (inputs + output) + gradients, 6 * corners, corners * value.element_size())


@dataclass(frozen=True)
class CaseResult:
    """All that was measured of one case.

    Attributes:
        case: the workload.
        batch: number of images.
        times: by what was timed and by number of threads.
        works: of our own implementations.
        errors: largest difference of the output from the definition's, by (name, dtype).
        missing: by name why an implementation did not take part.
    """

    case: Case
    batch: int
    times: dict[tuple[Key, int], Times]
    works: dict[Key, Work]
    errors: dict[tuple[str, str], float]
    missing: dict[str, str]

    def describe(self) -> str:
        """Say in one line what the case is."""
        levels = " + ".join(f"{height}x{width}" for height, width in self.case.level_sizes)
        return (
            f"{self.case.title}: B = {self.batch}, levels {levels} (S = {self.case.length}), "
            f"Q = {self.case.num_queries}, M = {HEADS}, C = {CHANNELS}, P = {POINTS}"
        )

    def seconds(self, key: Key, threads: int) -> float:
        """Return the least seconds of what was timed."""
        return best(self.times[key, threads], threads)

    def speedup(self, key: Key, than: Key, threads: int) -> float:
        """Return how many times faster `key` is than `than`."""
        return self.seconds(than, threads) / self.seconds(key, threads)

    def thread_gain(self, key: Key, threads: int) -> float:
        """Return how many times faster several threads are than one, both by the wall clock."""
        return min(self.times[key, 1]["wall"]) / min(self.times[key, threads]["wall"])


@dataclass(frozen=True)
class Results:
    """All that one run measured.

    Attributes:
        device: "cpu" or "cuda".
        machine: what ran, when, and with which command; by the name of each fact.
        thread_counts: numbers of threads in the order measured.
        rates: of the machine, by number of threads.
        cases: by name.
        memory: by name of the case, or why there is none.
    """

    device: str
    machine: dict[str, str]
    thread_counts: list[int]
    rates: dict[int, Rates]
    cases: dict[str, CaseResult]
    memory: dict[str, CaseMemory] | str
