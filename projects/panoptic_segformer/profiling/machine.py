"""What figures belong to."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

__all__ = ["device_name"]


def device_name(device_type: str) -> str:
    """Return the name of the GPU, or of the processor with the vector instructions that torch uses on it."""
    if device_type == "cuda":
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
