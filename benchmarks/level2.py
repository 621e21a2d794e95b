"""A Triton kernel that does nothing but read from the level 2 cache. Importing it needs Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["PASSES", "read_again_and_again"]

# The first pass brings the tensor into the cache; the more follow, the less it counts.
PASSES = 64
BLOCK = 4096
PROGRAMS_PER_MULTIPROCESSOR = 4


def read_again_and_again(tensor: torch.Tensor, multiprocessors: int) -> torch.Tensor:
    """Read a float32 tensor PASSES times; return [programs] sums, which keep the reads from being optimised away."""
    programs = multiprocessors * PROGRAMS_PER_MULTIPROCESSOR
    sums = torch.empty(programs, device=tensor.device)
    _read[(programs,)](tensor, sums, tensor.numel() // BLOCK, PASSES, BLOCK)
    return sums


@triton.jit
def _read(tensor, sums, blocks, passes, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202 - Triton's own types
    """Let program i read every n-th block from a start that moves by one with each pass."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    columns = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for turn in range(passes):
        for block in range((program + turn) % programs, blocks, programs):
            # .cg goes past the level 1 cache.
            total += tl.load(tensor + block * BLOCK + columns, cache_modifier=".cg")
    tl.store(sums + program, tl.sum(total))
