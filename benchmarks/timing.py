"""Times of several calls that take turns, so that a disturbance of the machine hits all of them alike."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

import torch

__all__ = ["Clock", "Times", "best", "make_clock", "take_turns"]

# Seconds by the name of what was counted: "wall" and "cpu", or "device".
Clock = Callable[[Callable[[], object]], dict[str, float]]
Times = dict[str, list[float]]

# Written before each call on a GPU: more than any level 2 cache holds, and in all about a millisecond.
COVER_BYTES = 512 * 1024**2
COVER_WRITES = 8
# Seconds after which idle threads of any OpenMP runtime are asleep.
SLEEP = 0.25


def make_clock(device: str) -> Clock:
    """Return what times one call on a device."""
    return _CudaClock() if device == "cuda" else _time_cpu


def take_turns(
    calls: dict[Hashable, Callable[[], object]], clock: Clock, thread_counts: Iterable[int], runs: int
) -> dict[tuple[Hashable, int], Times]:
    """Time every call `runs` times after one warm-up; return the times by call and number of threads.

    Threads that have just become idle look for work for a while, on the CPU time of the process: they get time to
    fall asleep before fewer threads are timed.
    """
    thread_counts = list(thread_counts)
    times: dict[tuple[Hashable, int], Times] = defaultdict(lambda: defaultdict(list))
    for turn in range(runs + 1):
        for threads in thread_counts:
            if threads < torch.get_num_threads():
                time.sleep(SLEEP)
            torch.set_num_threads(threads)
            for name, call in calls.items():
                for kind, seconds in clock(call).items():
                    if turn > 0:
                        times[name, threads][kind].append(seconds)
    return {key: dict(value) for key, value in times.items()}


def best(times: Times, threads: int) -> float:
    """Return the least seconds on the clock to trust.

    One CPU thread is judged by its own time, which other processes hardly change; several threads can only be
    judged by the wall clock.
    """
    clock = "device" if "device" in times else "cpu" if threads == 1 else "wall"
    return min(times[clock])


def _time_cpu(call: Callable[[], object]) -> dict[str, float]:
    """Time a call on the wall clock and in CPU seconds of all threads of the process."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


class _CudaClock:
    """Times the kernels of a call on the GPU, without what Python and the launches cost.

    While the GPU writes a large tensor again and again, the call's kernels queue up behind; so they run back to
    back, between two events, on a cold level 2 cache.
    """

    def __init__(self) -> None:
        self.cover = torch.empty(COVER_BYTES, dtype=torch.uint8, device="cuda")

    def __call__(self, call: Callable[[], object]) -> dict[str, float]:
        """Return the seconds between the two events."""
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(COVER_WRITES):
            self.cover.zero_()
        start.record()
        call()
        stop.record()
        torch.cuda.synchronize()
        return {"device": start.elapsed_time(stop) / 1000}
