"""Peak memory of the operator's passes beyond their inputs, see `panoptic_segformer.profiling.memory`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cases import Case, make_inputs
from implementations import make_contenders

from panoptic_segformer.profiling.memory import MemoryUnknownError, in_fresh_process, peak_memory

__all__ = ["CaseMemory", "Memory", "measure_memory"]


@dataclass(frozen=True)
class Memory:
    """Bytes of one pass of one implementation.

    Attributes:
        peak: the most in use at one time, beyond the inputs.
        results: of these, what the pass returns: the output, after a backward also the gradients.
    """

    peak: int
    results: int


# Of each pass, by name and dtype of the implementation.
CaseMemory = dict[tuple[str, str], dict[str, Memory]]


def measure_memory(cases: dict[str, Case], batch: int, dtypes: list[str], device: str) -> dict[str, CaseMemory] | str:
    """Return the memory by case, or why it can't be measured."""
    if device == "cuda":
        return _measure_cases(cases, batch, dtypes, device)
    try:
        return in_fresh_process(_measure_cases, cases, batch, dtypes, device)
    except MemoryUnknownError as error:
        return str(error)


def _measure_cases(cases: dict[str, Case], batch: int, dtypes: list[str], device: str) -> dict[str, CaseMemory]:
    """Measure all cases one after the other, with one thread."""
    torch.set_num_threads(1)
    return {name: _measure_case(case, batch, dtypes, device) for name, case in cases.items()}


def _measure_case(case: Case, batch: int, dtypes: list[str], device: str) -> CaseMemory:
    """Measure all contenders one after the other, each after a warm-up."""
    contenders, _ = make_contenders(make_inputs(case, batch), dtypes, device)
    memory = {}
    for contender in contenders:
        contender.forward_backward()
        passes = {}
        for pass_, call in contender.passes().items():
            peak, results = peak_memory(call, torch.device(device))
            passes[pass_] = Memory(peak, sum(tensor.nbytes for tensor in results))
        memory[contender.name, contender.dtype] = passes
    return memory
