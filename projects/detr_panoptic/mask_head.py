"""DETR's mask head: attention maps of a query, refined by convolutions on finer and finer features.

Both modules see one picture and some of its queries. Queries do not influence each other, group norm included, so the
masks of some are the same as those among the masks of all. Names of parameters are those of the released checkpoints.
Paper: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 4.4 and figure 8.
Shape legend: N queries of one picture, D model width, M attention heads, h, w size of the coarsest feature, H1, W1 of
the finest, C channels of a backbone feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionMaps", "MaskHead"]

NUM_GROUPS = 8


class AttentionMaps(nn.Module):
    """Multi-head attention without values: where queries look."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q_linear = nn.Linear(dim, dim)
        self.k_linear = nn.Linear(dim, dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, memory: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return maps (N, M, h, w); those of a query sum to 1 over heads and pixels together.

        Args:
            queries: (N, D).
            memory: (D, h, w), of the encoder.
            padding: (h, w) bool, where maps shall be 0; None where there is no padding.
        """
        keys = self.k_linear(memory.flatten(1).T).unflatten(1, (self.num_heads, -1))
        queries = self.q_linear(queries).unflatten(1, (self.num_heads, -1)) * self.scale
        scores = torch.einsum("nmc,smc->nms", queries, keys)
        if padding is not None:
            scores = scores.masked_fill(padding.flatten(), -torch.inf)
        return scores.flatten(1).softmax(1).view(*scores.shape[:2], *memory.shape[1:])


class MaskHead(nn.Module):
    """Five convolutions with group norm; the last three follow a step to the next finer feature."""

    def __init__(self, dim: int, num_heads: int, fine_channels: Sequence[int], map_gain: float = 1.0) -> None:
        """Make the layers.

        Args:
            dim: D, a multiple of 128, so that the norms have whole groups.
            num_heads: M, a multiple of 8 likewise.
            fine_channels: channels of the three finer features, coarsest of them first.
            map_gain: factor of the weights that the attention maps start with.
        """
        super().__init__()
        wide = dim + num_heads
        widths = [dim // 2, dim // 4, dim // 8, dim // 16]
        self.lay1, self.gn1 = _convolution(wide, wide), nn.GroupNorm(NUM_GROUPS, wide)
        self.lay2, self.gn2 = _convolution(wide, widths[0]), nn.GroupNorm(NUM_GROUPS, widths[0])
        self.lay3, self.gn3 = _convolution(widths[0], widths[1]), nn.GroupNorm(NUM_GROUPS, widths[1])
        self.lay4, self.gn4 = _convolution(widths[1], widths[2]), nn.GroupNorm(NUM_GROUPS, widths[2])
        self.lay5, self.gn5 = _convolution(widths[2], widths[3]), nn.GroupNorm(NUM_GROUPS, widths[3])
        self.out_lay = _convolution(widths[3], 1)
        self.adapter1, self.adapter2, self.adapter3 = (
            _convolution(channels, width, kernel_size=1)
            for channels, width in zip(fine_channels, widths[:3], strict=True)
        )
        with torch.no_grad():
            self.lay1.weight[:, dim:] *= map_gain

    def forward(self, maps: Tensor, coarse: Tensor, fine: Sequence[Tensor]) -> Tensor:
        """Return mask logits (N, H1, W1).

        Args:
            maps: (N, M, h, w), of `AttentionMaps`.
            coarse: (D, h, w), the projected coarsest feature.
            fine: the three finer features (C, ...), coarsest of them first.
        """
        x = F.relu(self.gn1(self._first(maps, coarse)), inplace=True)
        x = F.relu(self.gn2(self.lay2(x)), inplace=True)
        for feature, adapter, layer, norm in zip(
            fine,
            (self.adapter1, self.adapter2, self.adapter3),
            (self.lay3, self.lay4, self.lay5),
            (self.gn3, self.gn4, self.gn5),
            strict=True,
        ):
            x = adapter(feature[None]) + F.interpolate(x, feature.shape[-2:], mode="nearest")
            x = F.relu(norm(layer(x)), inplace=True)
        return self.out_lay(x)[:, 0]

    def _first(self, maps: Tensor, coarse: Tensor) -> Tensor:
        """Return `lay1` of the feature and the maps, one behind the other.

        The feature's share of the sum is the same for all queries: it is computed once, and nothing of its width is
        held per query.
        """
        of_feature, of_maps = self.lay1.weight.split([len(coarse), maps.shape[1]], dim=1)
        shared = F.conv2d(coarse[None], of_feature, self.lay1.bias, padding=1)
        return shared + F.conv2d(maps, of_maps, padding=1)


def _convolution(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    nn.init.zeros_(convolution.bias)
    return convolution
