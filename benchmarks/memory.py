"""Peak memory of a call beyond its inputs.

On a GPU torch's allocator keeps the peak. On a CPU a kernel may take scratch memory past torch, so what counts is
the most that the process had resident during the call (Linux writes it down, and forgets it on request), less what
it had before. That needs a fresh process that gives every freed block back at once: memory that malloc keeps for
later would hide the next call's. Pages that are taken and never touched don't count. Linux counts in batches, which
makes figures below a megabyte meaningless.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from cases import Case, make_inputs
from implementations import make_contenders

__all__ = ["CaseMemory", "Memory", "measure_memory"]

# Options of glibc's mallopt. Blocks from 64 KiB on get their own mapping, which ends with them.
TRIM_THRESHOLD, MAPPING_THRESHOLD = -1, -3
OWN_MAPPING_BYTES = 64 * 1024
FORGET_PEAK = "5"


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
        processes = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _give_back_at_once)
        with processes:
            return processes.submit(_measure_cases, cases, batch, dtypes, device).result()
    except (OSError, AttributeError, BrokenProcessPool) as error:
        return f"needs Linux with glibc and a writable /proc/self/clear_refs ({error})"


def _measure_cases(cases: dict[str, Case], batch: int, dtypes: list[str], device: str) -> dict[str, CaseMemory]:
    """Measure all cases one after the other, with one thread."""
    torch.set_num_threads(1)
    return {name: _measure_case(case, batch, dtypes, device) for name, case in cases.items()}


def _measure_case(case: Case, batch: int, dtypes: list[str], device: str) -> CaseMemory:
    """Measure all contenders one after the other, each after a warm-up."""
    measure = _measure_cuda if device == "cuda" else _measure_cpu
    contenders, _ = make_contenders(make_inputs(case, batch), dtypes, device)
    memory = {}
    for contender in contenders:
        contender.forward_backward()
        passes = {pass_: measure(call) for pass_, call in contender.passes().items()}
        memory[contender.name, contender.dtype] = passes
    return memory


def _measure_cuda(call: Callable[[], tuple[torch.Tensor, ...]]) -> Memory:
    """Ask torch's allocator."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = call()
    return Memory(torch.cuda.max_memory_allocated() - before, _count_bytes(results))


def _measure_cpu(call: Callable[[], tuple[torch.Tensor, ...]]) -> Memory:
    """Ask Linux."""
    gc.collect()
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text(FORGET_PEAK, encoding="ascii")
    results = call()
    return Memory(_resident_bytes("VmHWM") - before, _count_bytes(results))


def _count_bytes(tensors: tuple[torch.Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _resident_bytes(field: str) -> int:
    """Read VmRSS (now) or VmHWM (the most so far)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{field}:\s*(\d+) kB", status)[1]) * 1024


def _give_back_at_once() -> None:
    """Make malloc return what is freed to the system."""
    mallopt = ctypes.CDLL(None).mallopt
    for option, size in ((MAPPING_THRESHOLD, OWN_MAPPING_BYTES), (TRIM_THRESHOLD, 0)):
        if not mallopt(option, size):
            raise OSError(f"mallopt({option}, {size}) was refused; measure the memory on another machine")
