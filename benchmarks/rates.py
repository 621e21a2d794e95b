"""What the machine can do at most, measured by simple operations: the yardstick of what a kernel reaches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timing import Clock, best, take_turns

__all__ = ["Rates", "measure_rates"]

RUNS = 5
# Beyond any cache: bytes of a copied tensor. Enough arithmetic to hide all reads: sides of a multiplied matrix.
COPIED_BYTES = {"cpu": 256 * 1024**2, "cuda": 1024**3}
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Rates:
    """Attainable rates of one device with one number of threads.

    Attributes:
        copy: bytes per second of a large copy, read and written together.
        matmul: float32 operations per second of torch.mm, without TF32; a multiply-add is two.
        level2: bytes per second read from a GPU's level 2 cache; None on a CPU, or where it can't be measured.
    """

    copy: float
    matmul: float
    level2: float | None = None


def measure_rates(device: str, thread_counts: list[int], clock: Clock) -> dict[int, Rates]:
    """Return the rates by number of threads."""
    source = torch.ones(COPIED_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left, right = torch.rand(2, MATRIX_SIDE[device], MATRIX_SIDE[device], device=device)
    calls = {"copy": lambda: target.copy_(source), "matmul": lambda: torch.mm(left, right)}
    times = take_turns(calls, clock, thread_counts, RUNS)
    level2 = _measure_level2(clock) if device == "cuda" else None
    return {
        threads: Rates(
            copy=2 * source.nbytes / best(times["copy", threads], threads),
            matmul=2 * MATRIX_SIDE[device] ** 3 / best(times["matmul", threads], threads),
            level2=level2,
        )
        for threads in thread_counts
    }


def _measure_level2(clock: Clock) -> float | None:
    """Return the bytes per second that all multiprocessors read together from a tensor a quarter the cache's size.

    More would not stay there: some GPUs keep a line in both halves of their cache.
    """
    try:
        from level2 import PASSES, read_again_and_again
    except ImportError as error:
        print(f"level 2 cache: not measured ({error}); install triton, which comes with torch for CUDA")
        return None
    gpu = torch.cuda.get_device_properties("cuda")
    tensor = torch.ones(gpu.L2_cache_size // 4 // 4, dtype=torch.float32, device="cuda")
    times = take_turns({"read": lambda: read_again_and_again(tensor, gpu.multi_processor_count)}, clock, [1], RUNS)
    return PASSES * tensor.nbytes / best(times["read", 1], 1)
