"""Work on many files in several processes, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

__all__ = ["default_workers", "parallel_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# More processes than these wait for the disk.
_MOST_WORKERS = 16
# Items that travel to a process together.
_CHUNK = 8


def default_workers() -> int:
    """Return how many processes use this machine well."""
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, unit: str = "picture"
) -> Iterator[Result]:
    """Yield function(item) of every item in order, computed by `workers` processes (1: by this one).

    Raises: OSError: if a process dies, as it does when memory runs out. Whatever the function raises.
    """
    bar = {"total": len(items), "unit": unit, "disable": None}
    if workers == 1:
        yield from tqdm(map(function, items), **bar)
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield from tqdm(pool.map(function, items, chunksize=_CHUNK), **bar)
        except BrokenProcessPool as error:
            raise OSError(f"one of {workers} processes died, perhaps of too little memory: use fewer") from error
        finally:
            pool.shutdown(cancel_futures=True)
