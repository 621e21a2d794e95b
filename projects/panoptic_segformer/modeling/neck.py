"""Projection of the backbone's features to the model width, with one coarser level added.

Deformable attention samples four levels of one width; paper, section 3.2 (after Deformable DETR).
Shape legend: B pictures, D model width, Hl, Wl size of level l.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Neck"]

NUM_GROUPS = 32  # of group norm, as Deformable DETR


class Neck(nn.Module):
    """1x1 convolutions for the given features and a 3x3 convolution of stride 2 on the coarsest one."""

    def __init__(self, in_channels: list[int], dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, dim, 1, bias=False) for channels in in_channels)
        self.convs.append(nn.Conv2d(in_channels[-1], dim, 3, stride=2, padding=1, bias=False))
        self.norms = nn.ModuleList(nn.GroupNorm(NUM_GROUPS, dim) for _ in self.convs)
        for conv in self.convs:
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Project (B, Cl, Hl, Wl) features, finest first, to one more level (B, D, Hl, Wl).

        Group norm averages over the whole map, so pictures that carry padding have to come one by one, cut
        to their own size; then padding has no part in it.
        """
        inputs = [*features, features[-1]]
        return [norm(conv(x)) for x, conv, norm in zip(inputs, self.convs, self.norms, strict=True)]
