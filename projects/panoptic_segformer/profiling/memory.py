"""Peak memory of a call beyond what was in use before it.

On a GPU torch's allocator keeps the peak. On a CPU a kernel may take scratch memory past torch, so what counts is
the most that the process had resident during the call (Linux writes it down, and forgets it on request), less what
it had before. That needs a fresh process that gives every freed block back at once: memory that malloc keeps for
later would hide the next call's. Times must not be taken there: every large block costs page faults. Pages that are
taken and never touched don't count. Linux counts in batches, which makes figures below a megabyte meaningless.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

__all__ = ["MemoryUnknownError", "in_fresh_process", "most_resident_bytes", "peak_memory"]

# Options of glibc's mallopt. Blocks from 64 KiB on get their own mapping, which ends with them.
TRIM_THRESHOLD, MAPPING_THRESHOLD = -1, -3
OWN_MAPPING_BYTES = 64 * 1024
FORGET_PEAK = "5"
# Where Linux tells about the process itself.
PROCESS_FACTS = Path("/proc/self")

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class MemoryUnknownError(RuntimeError):
    """Says why the memory of a process can't be measured here."""


def peak_memory(call: Callable[[], Result], device: torch.device) -> tuple[int, Result]:
    """Call once; return the peak in bytes beyond what was in use before, and what the call returned.

    What the call returns is part of the peak. Let it run once before: libraries take memory for good at first use.

    Args:
        call: does the work.
        device: where it does so. On a CPU, this must run `in_fresh_process`.
    Raises: MemoryUnknownError: if the system does not tell.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        return torch.cuda.max_memory_allocated(device) - before, result
    before = _resident_bytes("VmRSS")
    try:
        (PROCESS_FACTS / "clear_refs").write_text(FORGET_PEAK, encoding="ascii")
    except OSError as error:
        raise MemoryUnknownError(f"needs Linux with a writable /proc/self/clear_refs ({error})") from error
    result = call()
    return most_resident_bytes() - before, result


def in_fresh_process(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Return what a function returns in a process of its own that gives freed memory back at once.

    Function, arguments and result are pickled. Errors of the function are raised here.

    Raises: MemoryUnknownError: if the system has no mallopt, or the process ends without a result.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        try:
            return processes.submit(_call_with_exact_memory, function, *arguments, **options).result()
        except BrokenProcessPool as error:
            raise MemoryUnknownError(
                "its process ended without a result: killed for want of memory, or the main script can't be imported "
                "(it needs `if __name__ == '__main__'`)"
            ) from error


def most_resident_bytes() -> int:
    """Return the most that this process had resident so far, or since `peak_memory` began to measure.

    Raises: MemoryUnknownError: if the system does not tell.
    """
    return _resident_bytes("VmHWM")


def _call_with_exact_memory(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Make malloc return what is freed to the system, then call."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError) as error:  # The last one is Windows'.
        raise MemoryUnknownError(f"needs Linux with glibc ({error})") from error
    for option, size in ((MAPPING_THRESHOLD, OWN_MAPPING_BYTES), (TRIM_THRESHOLD, 0)):
        if not mallopt(option, size):
            raise MemoryUnknownError(f"glibc refused mallopt({option}, {size})")
    return function(*arguments, **options)


def _resident_bytes(field: str) -> int:
    """Read VmRSS (now) or VmHWM (the most so far)."""
    try:
        status = (PROCESS_FACTS / "status").read_text(encoding="ascii")
    except OSError as error:
        raise MemoryUnknownError(f"needs Linux with /proc/self/status ({error})") from error
    return int(re.search(rf"{field}:\s*(\d+) kB", status)[1]) * 1024
