"""Inputs of the benchmark of multi-scale deformable attention: where which queries sample.

All cases have the model's 8 heads of 32 channels and 4 points per level, and draw everything from one seed.

Shape legend: B images, M heads, C channels of a head, L levels of (height, width), S tokens of all levels,
Q queries, P points.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CASES", "Case", "Inputs", "attention_weights", "make_inputs", "sampling_locations"]

HEADS, CHANNELS, POINTS = 8, 32, 4
# An input of 800x1216 at strides 8, 16 and 32.
THREE_LEVELS = ((100, 152), (50, 76), (25, 38))
DECODER_QUERIES = 300
# Sides of the boxes that decoder queries look into, as shares of the picture.
SMALLEST_BOX, LARGEST_BOX = 0.05, 0.5


@dataclass(frozen=True)
class Case:
    """One workload.

    Attributes:
        title: what the queries are and where they sample.
        place: gives reference points and sampling offsets of a case, a batch size and a random generator.
        level_sizes: L pairs (height, width).
        queries: number of queries, or None for one per token.
    """

    title: str
    place: Callable[[Case, int, torch.Generator], tuple[Tensor, Tensor]]
    level_sizes: tuple[tuple[int, int], ...] = THREE_LEVELS
    queries: int | None = None

    @property
    def length(self) -> int:
        """Number of tokens of all levels."""
        return sum(height * width for height, width in self.level_sizes)

    @property
    def num_queries(self) -> int:
        """Number of queries."""
        return self.queries or self.length

    def shrink(self, factor: int) -> Case:
        """Divide the sides of all levels, and the number of queries where it isn't theirs."""
        sizes = tuple((max(1, height // factor), max(1, width // factor)) for height, width in self.level_sizes)
        return dataclasses.replace(self, level_sizes=sizes, queries=self.queries and max(1, self.queries // factor))


@dataclass(frozen=True)
class Inputs:
    """Tensors of one case, in both forms of the operator.

    Attributes:
        level_sizes: L pairs (height, width).
        cells: [L, 1, 2], width and height of a cell of each level as fractions of that level.
        value: [B, S, M, C].
        reference: [B, Q, L, 2] points (x, y) or [B, Q, L, 4] boxes (cx, cy, w, h), always float32.
        offsets: [B, Q, M, L, P, 2], in cells of the level or shares of the box.
        logits: [B, Q, M, L, P].
        locations: [B, Q, M, L, P, 2], what reference and offsets amount to, always float32.
        weights: [B, Q, M, L, P], what the logits amount to, always float32.
        grad_output: [B, Q, M*C], the gradient that backward starts from.
    """

    level_sizes: tuple[tuple[int, int], ...]
    cells: Tensor
    value: Tensor
    reference: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor
    grad_output: Tensor

    def to(self, device: str, dtype: torch.dtype) -> Inputs:
        """Move to a device, and cast what the model has in half precision under autocast."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if field.name != "level_sizes"
        }
        for name in ("value", "offsets", "logits", "grad_output"):
            moved[name] = moved[name].to(dtype)
        return dataclasses.replace(self, **moved)


def make_inputs(case: Case, batch: int) -> Inputs:
    """Draw the float32 inputs of a case on the CPU, the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    reference, offsets = case.place(case, batch, generator)
    logits = torch.randn(offsets.shape[:-1], generator=generator)
    cells = 1 / _widths_and_heights(case)[:, None]
    return Inputs(
        level_sizes=case.level_sizes,
        cells=cells,
        value=torch.randn(batch, case.length, HEADS, CHANNELS, generator=generator),
        reference=reference,
        offsets=offsets,
        logits=logits,
        locations=sampling_locations(reference, offsets, cells),
        weights=attention_weights(logits),
        grad_output=torch.randn(batch, case.num_queries, HEADS * CHANNELS, generator=generator),
    )


def sampling_locations(reference: Tensor, offsets: Tensor, cells: Tensor) -> Tensor:
    """Return [B, Q, M, L, P, 2] fractions of the levels, by the arithmetic of Deformable DETR's modules."""
    centres = reference[:, :, None, :, None, :2]
    if reference.shape[-1] == 2:
        return centres + offsets * cells
    return centres + offsets * (reference[:, :, None, :, None, 2:] * (0.5 / offsets.shape[-2]))


def attention_weights(logits: Tensor) -> Tensor:
    """Return [B, Q, M, L, P], the softmax over the samples of one query and head."""
    return logits.flatten(-2).softmax(-1).view(logits.shape)


def _widths_and_heights(case: Case) -> Tensor:
    """Return [L, 2], the level sizes in the order of (x, y)."""
    return torch.tensor(case.level_sizes, dtype=torch.float32).flip(-1)


def _spread(case: Case, batch: int, generator: torch.Generator) -> Tensor:
    """Return offsets [B, Q, M, L, P, 2] as a trained model has them: p + 1 steps in the head's direction, and noise."""
    angles = torch.arange(HEADS) * (2 * math.pi / HEADS)
    directions = torch.stack([angles.cos(), angles.sin()], -1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    steps = directions[:, None, None] * torch.arange(1, POINTS + 1)[:, None]
    shape = (batch, case.num_queries, HEADS, len(case.level_sizes), POINTS, 2)
    return steps + torch.randn(shape, generator=generator)


def _around_tokens(case: Case, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every query is a token and samples around its own place, in cells of each level."""
    centres = []
    for height, width in case.level_sizes:
        rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
        centres.append(torch.cartesian_prod(rows, columns).flip(-1))
    reference = torch.cat(centres)[None, :, None].expand(batch, -1, len(case.level_sizes), -1)
    return reference.contiguous(), _spread(case, batch, generator)


def _anywhere(case: Case, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples lie anywhere in the picture, whatever the query: the worst case of a cache."""
    reference, offsets = _around_tokens(case, batch, generator)
    targets = torch.rand(offsets.shape, generator=generator)
    return reference, (targets - reference[:, :, None, :, None]) * _widths_and_heights(case)[:, None]


def _in_boxes(case: Case, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every query has a box at a random centre and samples in shares of it."""
    centres = torch.rand(batch, case.num_queries, 2, generator=generator)
    sides = SMALLEST_BOX + (LARGEST_BOX - SMALLEST_BOX) * torch.rand(centres.shape, generator=generator)
    reference = torch.cat([centres, sides], -1)[:, :, None].expand(-1, -1, len(case.level_sizes), -1)
    return reference.contiguous(), _spread(case, batch, generator)


CASES = {
    "encoder": Case("every token samples around itself", _around_tokens),
    "four-levels": Case("the same with a level of stride 64", _around_tokens, (*THREE_LEVELS, (13, 19))),
    "uniform": Case("every token samples anywhere", _anywhere),
    "decoder": Case("queries sample around boxes", _in_boxes, queries=DECODER_QUERIES),
}
