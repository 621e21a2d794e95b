from __future__ import annotations

import os

import pytest
import torch

from panoptic_segformer.profiling import memory
from panoptic_segformer.profiling.memory import (
    MemoryUnknownError,
    in_fresh_process,
    most_resident_bytes,
    peak_memory,
)

MEGABYTES = 40
on_linux = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux with a writable /proc/self/clear_refs"
)


def allocate_and_drop() -> int:
    """Hold memory for a moment; return the process."""
    torch.ones(MEGABYTES * 2**18).mul_(2)
    return os.getpid()


def peaks() -> list[tuple[int, int]]:
    """A second call must show the same peak, though malloc had the memory before."""
    allocate_and_drop()  # Threads and what they need come with the first one.
    return [peak_memory(allocate_and_drop, torch.device("cpu")) for _ in range(2)]


def resident_before_and_after() -> tuple[int, int]:
    allocate_and_drop()
    (memory.PROCESS_FACTS / "clear_refs").write_text(memory.FORGET_PEAK)
    before = most_resident_bytes()
    allocate_and_drop()
    return before, most_resident_bytes()


def fail() -> None:
    raise ValueError("of the function")


def die() -> None:
    os._exit(1)


@on_linux
def test_peak_memory_finds_what_is_freed_again_in_every_call():
    measured = in_fresh_process(peaks)
    for peak, process in measured:
        assert peak == pytest.approx(MEGABYTES * 2**20, rel=0.1)
        assert process != os.getpid()


@on_linux
def test_most_resident_bytes_keeps_what_is_freed_again():
    before, after = in_fresh_process(resident_before_and_after)
    assert after - before == pytest.approx(MEGABYTES * 2**20, rel=0.1)


@on_linux
def test_in_fresh_process_passes_errors_on_and_names_the_lack_of_memory():
    with pytest.raises(ValueError, match="of the function"):
        in_fresh_process(fail)
    with pytest.raises(MemoryUnknownError, match="killed"):
        in_fresh_process(die)


def test_peak_memory_says_why_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROCESS_FACTS", tmp_path / "absent")
    with pytest.raises(MemoryUnknownError, match="needs Linux"):
        peak_memory(allocate_and_drop, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peak_memory_on_a_gpu_is_the_allocators():
    peak, result = peak_memory(lambda: torch.ones(2**20, device="cuda").mul(2).sum().item(), torch.device("cuda"))
    assert result == 2**21
    assert 2 * 4 * 2**20 <= peak <= 3 * 4 * 2**20
