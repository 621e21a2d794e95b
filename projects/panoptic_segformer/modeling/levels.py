"""Geometry of the flattened multi-scale tokens of a batch whose pictures may differ in size.

All padding arithmetic of the network is here: which tokens are padding, which share of a level a picture
fills, and how a picture's own tokens are cut out again.
Shape legend: B pictures, D model width, L levels, Hl, Wl padded size of level l, S = sum Hl*Wl.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FeatureLevels", "Size", "pad_levels"]

Size = tuple[int, int]  # height, width


class FeatureLevels:
    """Feature levels of a batch, finest first, with each picture's own size in them.

    Everything that layers ask for is computed once, so that none of them waits for a copy to the device.

    Attributes:
        maps: L tensors (B, D, Hl, Wl), zero in padding.
        sizes: for each picture its L sizes (height, width), at most (Hl, Wl).
        shapes: the L padded sizes (Hl, Wl).
        size_tensor: (B, L, 2) each picture's own sizes (height, width), in float32 at least: half precision can't tell
            neighbouring cells of a wide level apart.
        valid_ratios: (B, L, 2) share of every level that a picture fills, order (x, y).
        padding: (B, S) bool, which tokens are padding, or None where nothing is.
    """

    def __init__(self, maps: list[Tensor], sizes: list[list[Size]]) -> None:
        self.maps = maps
        self.sizes = sizes
        self.shapes = [(level.shape[-2], level.shape[-1]) for level in maps]
        options = {"dtype": torch.promote_types(maps[0].dtype, torch.float32), "device": maps[0].device}
        self.size_tensor = torch.tensor(sizes, **options)
        self.valid_ratios = (self.size_tensor / torch.tensor(self.shapes, **options)).flip(-1)
        has_padding = any(own != self.shapes for own in sizes)
        self.padding = self._padding() if has_padding else None

    def tokens(self) -> Tensor:
        """Return the levels flattened row by row and concatenated: (B, S, D)."""
        return torch.cat([level.flatten(2).transpose(1, 2) for level in self.maps], dim=1)

    def reference_points(self) -> Tensor:
        """Return the centres of all tokens in units of their picture: (B, S, 2), (x, y) in [0, 1] inside it."""
        points = []
        for level, (height, width) in enumerate(self.shapes):
            rows, columns = self._cells(level)
            y = ((rows + 0.5) / self.size_tensor[:, level, 0, None])[:, :, None].expand(-1, -1, width)
            x = ((columns + 0.5) / self.size_tensor[:, level, 1, None])[:, None, :].expand(-1, height, -1)
            points.append(torch.stack([x, y], dim=-1).flatten(1, 2))
        return torch.cat(points, dim=1)

    def _padding(self) -> Tensor:
        masks = []
        for level in range(len(self.shapes)):
            rows, columns = self._cells(level)
            below = rows >= self.size_tensor[:, level, 0, None]
            right = columns >= self.size_tensor[:, level, 1, None]
            masks.append((below[:, :, None] | right[:, None, :]).flatten(1))
        return torch.cat(masks, dim=1)

    def _cells(self, level: int) -> list[Tensor]:
        """Return the numbers of a level's rows (Hl,) and columns (Wl,)."""
        like = self.size_tensor
        return [torch.arange(length, dtype=like.dtype, device=like.device) for length in self.shapes[level]]

    def same_sizes(self) -> list[list[int]]:
        """Return the pictures in groups of equal sizes in all levels."""
        groups: dict[tuple[Size, ...], list[int]] = {}
        for picture, sizes in enumerate(self.sizes):
            groups.setdefault(tuple(sizes), []).append(picture)
        return list(groups.values())

    def picture_tokens(self, memory: Tensor, pictures: Sequence[int], num_levels: int) -> Tensor:
        """Return the tokens of some pictures' own area in their finest levels.

        Args:
            memory: (B, S, D) tokens of the whole batch.
            pictures: indices in the batch, G pictures of equal sizes.
            num_levels: how many levels, finest first.
        Returns: (G, S', D), S' = sum of a picture's own level areas.
        """
        own_sizes = self.sizes[pictures[0]][:num_levels]
        shapes = self.shapes[:num_levels]
        memory = memory[:, : sum(height * width for height, width in shapes)]
        if len(pictures) == 1:
            memory = memory[pictures[0] : pictures[0] + 1]  # a view; indices would have to be sent to a GPU
        elif len(pictures) < len(self.sizes):
            memory = memory[list(pictures)]
        if own_sizes == shapes:
            return memory
        tokens = []
        levels = memory.split([height * width for height, width in shapes], dim=1)
        for level, shape, (height, width) in zip(levels, shapes, own_sizes, strict=True):
            tokens.append(level.unflatten(1, shape)[:, :height, :width].flatten(1, 2))
        return torch.cat(tokens, dim=1)


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
