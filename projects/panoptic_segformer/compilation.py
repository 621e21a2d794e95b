"""torch.compile of the network's transformer parts, for pictures of any sizes.

Parts are compiled in place, so that names in checkpoints stay as they are, and each on its own: what lies between them
depends on what is in the picture. The backbone is left alone: its convolutions are the library's either way, and timm
writes its padding for sizes that it knows.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["check_compiler", "compile_parts"]

# Forms of a part that torch may compile before it gives up and runs the others as they are: with and without
# gradients, padding, one picture or several, no query or one or several. torch's own limit is 8.
LEAST_LIMIT = 64


def compile_parts(parts: Iterable[nn.Module], device: str | torch.device, backend: str = "inductor") -> None:
    """Let modules compile themselves when they are first called, and once more for each form that they meet.

    Args:
        parts: the modules.
        device: where they will run.
        backend: torch.compile's.
    Raises: ValueError: if torch can't compile for the device.
    """
    if backend == "inductor":
        check_compiler(torch.device(device), "MODEL.PANOPTIC_SEGFORMER.COMPILE")
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, LEAST_LIMIT)
    for part in parts:
        part.compile(dynamic=True, backend=backend)


def check_compiler(device: torch.device, switch: str) -> None:
    """Raise ValueError if torch.compile does not work on a device, where `switch` asks for it."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        needed = "Triton" if device.type == "cuda" else "a C++ compiler (CXX)"
        raise ValueError(
            f"torch.compile does not work here ({reason}): install {needed}, or leave out {switch}"
        ) from error
