"""Geometry of the flattened multi-scale tokens of a batch whose pictures may differ in size.

All padding arithmetic of the network is here: which tokens are padding, which share of a level a picture
fills, and how a picture's own tokens are cut out again.
Shape legend: B pictures, D model width, L levels, Hl, Wl padded size of level l, S = sum Hl*Wl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FeatureLevels", "pad_levels"]

Size = tuple[int, int]


@dataclass(frozen=True)
class FeatureLevels:
    """Feature levels of a batch, finest first, with each picture's own size in them.

    Attributes:
        maps: L tensors (B, D, Hl, Wl), zero in padding.
        sizes: for each picture its L sizes (height, width), at most (Hl, Wl).
    """

    maps: list[Tensor]
    sizes: list[list[Size]]

    @cached_property
    def shapes(self) -> list[Size]:
        """The L padded sizes (Hl, Wl)."""
        return [(level.shape[-2], level.shape[-1]) for level in self.maps]

    @cached_property
    def spatial_shapes(self) -> Tensor:
        """(L, 2) int64 on the CPU, the padded sizes (Hl, Wl) as the operator takes them."""
        return torch.tensor(self.shapes, dtype=torch.int64)

    @cached_property
    def has_padding(self) -> bool:
        """Whether any picture is smaller than the batch on any level."""
        return any(sizes != self.shapes for sizes in self.sizes)

    def tokens(self) -> Tensor:
        """Return the levels flattened row by row and concatenated: (B, S, D)."""
        return torch.cat([level.flatten(2) for level in self.maps], dim=2).transpose(1, 2)

    def size_tensor(self) -> Tensor:
        """Return each picture's own sizes: (B, L, 2), (height, width), in the maps' type and device."""
        return self.maps[0].new_tensor(self.sizes)

    def valid_ratios(self) -> Tensor:
        """Return the share of every level that a picture fills: (B, L, 2), order (x, y)."""
        return (self.size_tensor() / self.maps[0].new_tensor(self.shapes)).flip(-1)

    def reference_points(self) -> Tensor:
        """Return the centres of all tokens in units of their picture: (B, S, 2), (x, y) in [0, 1] inside it."""
        sizes = self.size_tensor()
        points = []
        for level, (height, width) in enumerate(self.shapes):
            rows = torch.arange(height, dtype=sizes.dtype, device=sizes.device) + 0.5
            columns = torch.arange(width, dtype=sizes.dtype, device=sizes.device) + 0.5
            y = (rows / sizes[:, level, 0, None])[:, :, None].expand(-1, -1, width)
            x = (columns / sizes[:, level, 1, None])[:, None, :].expand(-1, height, -1)
            points.append(torch.stack([x, y], dim=-1).flatten(1, 2))
        return torch.cat(points, dim=1)

    def padding(self) -> Tensor | None:
        """Return which tokens are padding: (B, S) bool, or None where nothing is."""
        if not self.has_padding:
            return None
        device = self.maps[0].device
        sizes = torch.tensor(self.sizes, device=device)
        masks = []
        for level, (height, width) in enumerate(self.shapes):
            below = torch.arange(height, device=device) >= sizes[:, level, 0, None]
            right = torch.arange(width, device=device) >= sizes[:, level, 1, None]
            masks.append((below[:, :, None] | right[:, None, :]).flatten(1))
        return torch.cat(masks, dim=1)

    def picture_tokens(self, memory: Tensor, picture: int, num_levels: int) -> Tensor:
        """Return the tokens of one picture's own area in its finest levels.

        Args:
            memory: (B, S, D) tokens of the whole batch.
            picture: index in the batch.
            num_levels: how many levels, finest first.
        Returns: (1, S', D), S' = sum of the picture's own level areas.
        """
        lengths = [height * width for height, width in self.shapes]
        levels = memory[picture].split(lengths)[:num_levels]
        tokens = []
        for level, shape, (height, width) in zip(levels, self.shapes, self.sizes[picture], strict=False):
            if shape != (height, width):
                level = level.unflatten(0, shape)[:height, :width].flatten(0, 1)
            tokens.append(level)
        return torch.cat(tokens)[None]


def pad_levels(pictures: Sequence[list[Tensor]]) -> FeatureLevels:
    """Put pictures of any sizes into one batch.

    Args:
        pictures: for each picture its L maps (1, D, height, width).
    Returns: levels padded with zeros at the bottom and right to the largest picture.
    """
    sizes = [[(level.shape[-2], level.shape[-1]) for level in levels] for levels in pictures]
    maps = []
    for same_level in zip(*pictures, strict=True):
        height = max(level.shape[-2] for level in same_level)
        width = max(level.shape[-1] for level in same_level)
        padded = [F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in same_level]
        maps.append(torch.cat(padded))
    return FeatureLevels(maps, sizes)
