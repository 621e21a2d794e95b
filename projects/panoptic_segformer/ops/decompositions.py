"""The compiled operators in operations of torch alone, for exporters that know no others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .extension import is_loaded
from .reference import DEFINITIONS


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Tensor]]:
    """Return the table that replaces the compiled operators in an exported program by their definitions.

    Add it to the table of the target, as in
    `program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})`. It is empty where
    the extension is missing: what is traced there are the definitions themselves.
    """
    if not is_loaded():
        return {}
    operators = torch.ops.panoptic_segformer
    return {getattr(operators, name).default: functools.partial(_define, name) for name in DEFINITIONS}


def _define(name: str, value: Tensor, spatial_shapes: Sequence[int], *samples: Tensor) -> Tensor:
    """Compute an operator from its own arguments: level sizes without pairs."""
    pairs = list(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True))
    return DEFINITIONS[name](value, pairs, *samples)
