"""From the model to a graph of torch.export in which height and width of the picture are free.

The steps of the graph don't depend on the size: what torch.export notes about sizes while it traces becomes checks that
run with the program. Two things are exchanged meanwhile for others with equal results: timm's TensorFlow padding, whose
formula makes sizes that grow with every convolution, and, where it is asked for, the compiled operator.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..modeling import deformable_attention
from ..ops import ms_deform_attn_fused_reference
from .network import ExportableNetwork

__all__ = ["GREATEST_SIDE", "LEAST_SIDE", "export_program", "trace"]

# The coarsest level has stride 64, and torch.export takes sizes of 0 and 1 for constants.
LEAST_SIDE = 65
GREATEST_SIDE = 8192
# Odd, so that no step that fills up to even sizes can be left out.
TRACED_SIZE = (129, 163)


def export_program(network: ExportableNetwork, *, with_operator: bool) -> ExportedProgram:
    """Return the program of a network, for pictures with sides from LEAST_SIDE to GREATEST_SIDE.

    Args:
        network: on the CPU.
        with_operator: keep the compiled operator, where there is one: the program is faster then, and needs this
            package where it is loaded. Otherwise it is made of torch's own operators.
    """
    definition = _replaced(deformable_attention, "ms_deform_attn_fused", ms_deform_attn_fused_reference)
    with nullcontext() if with_operator else definition:
        return trace(network, torch.zeros(3, *TRACED_SIZE, dtype=torch.uint8))


def trace(module: nn.Module, images: Tensor) -> ExportedProgram:
    """Return the program of a module that takes images (..., H, W), for any H and W in the limits."""
    side = Dim.DYNAMIC(min=LEAST_SIDE, max=GREATEST_SIDE)
    sides = {images.dim() - 2: side, images.dim() - 1: side}
    with _short_padding(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own code
        return torch.export.export(
            module,
            (images,),
            dynamic_shapes=(sides,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Give a module another value of a name for a while."""
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


@contextmanager
def _short_padding() -> Iterator[None]:
    """Let convolutions of timm with TensorFlow's padding count it by a formula that stays short when it is repeated."""
    padding = sys.modules.get("timm.layers.padding")  # models with Detectron2's ResNet do without timm
    if padding is None:
        yield
        return
    original: Callable[[Any, int, int, int], Any] = padding.get_same_padding

    def short(x: Any, kernel_size: int, stride: int, dilation: int) -> Any:
        reach = dilation * (kernel_size - 1) + 1
        if reach < stride:
            return original(x, kernel_size, stride, dilation)
        return (x + stride - 1) // stride * stride + reach - stride - x

    with _replaced(padding, "get_same_padding", short):
        yield
