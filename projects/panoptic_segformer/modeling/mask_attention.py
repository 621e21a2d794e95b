"""Attention whose logits are masks: of a mask decoder's queries to the memory.

Paper, section 3.4. What queries read by their attention and the masks that it makes are computed apart: reading needs
no map in memory, and masks are asked for by few.
Shape legend: B pictures, D model width, M heads, N queries, S' tokens of the levels that masks are made of, Hl, Wl
size of level l.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .levels import Size

__all__ = ["NUM_MASK_LEVELS", "AttentionMap", "MaskAttention", "MaskCrossAttention", "MaskFusion"]

# Masks are fused from the levels of strides 8, 16 and 32; the coarsest level of the memory is left out.
NUM_MASK_LEVELS = 3
# Masks that are fused at a time, so that memory does not grow with queries.
QUERIES_PER_PART = 32


class MaskFusion(nn.Module):
    """Attention logits of all heads and levels, before the softmax, to one mask per query at the finest level."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.head_mixers = nn.ModuleList(nn.Linear(num_heads, num_heads) for _ in range(NUM_MASK_LEVELS))
        self.fuse = nn.Linear(NUM_MASK_LEVELS * num_heads, 1)

    def forward(self, q: Tensor, k: Tensor, sizes: list[Size]) -> Tensor:
        """Return the masks (B, N, H1, W1), values >= 0, of scaled q: (B, M, N, D / M) and k: (B, M, S', D / M).

        The fusing layer is linear, and so is upsampling: each level is reduced to one channel at its own size
        and only then brought to the finest one, which gives the released result for an eighth of the work.
        """
        batch, num_heads, num_queries, _ = q.shape
        weights = self.fuse.weight.view(NUM_MASK_LEVELS, 1, num_heads)
        levels = k.split([height * width for height, width in sizes], dim=2)
        fused = None
        for level, mixer, weight, size in zip(levels, self.head_mixers, weights, sizes, strict=True):
            logits = (q @ level.transpose(-1, -2)).flatten(2)
            mixed = F.relu(mixer.weight @ logits + mixer.bias[:, None].to(logits.dtype))
            mask = (weight @ mixed).view(batch * num_queries, 1, *size)
            if size != sizes[0]:
                mask = F.interpolate(mask, sizes[0], mode="bilinear", align_corners=False)
            fused = mask if fused is None else fused + mask
        return F.relu(fused + self.fuse.bias.to(fused.dtype)).view(batch, num_queries, *sizes[0])


@dataclass(frozen=True)
class AttentionMap:
    """Where the queries of one layer look, from which their masks are made when they are asked for.

    Logits of all heads, queries and tokens are by far the largest tensor of a mask decoder, and few of its masks are
    used: in inference those of the last layer, in training those of queries that were matched.

    Attributes:
        q: (B, M, N, D / M), scaled.
        k: (B, M, S', D / M).
        sizes: (height, width) of the levels that the tokens belong to.
        fusion: the layer's.
    """

    q: Tensor
    k: Tensor
    sizes: list[Size]
    fusion: MaskFusion

    def masks(self, queries: Tensor | None = None) -> Tensor:
        """Return the masks (B, N, H1, W1) of all queries, or of those at the given indices (N,).

        They are computed in the precision of the attention, wherever they are asked for: losses run outside autocast.
        """
        q = self.q if queries is None else self.q[:, :, queries]
        is_half = q.dtype in (torch.float16, torch.bfloat16)
        # Without autocast's cache: matching asks without gradients, and weights cast then would have none later.
        with torch.autocast(q.device.type, q.dtype, cache_enabled=False) if is_half else nullcontext():
            parts = [self.fusion(part, self.k, self.sizes) for part in q.split(QUERIES_PER_PART, dim=2)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class MaskAttention(nn.Module):
    """Attention of queries to the memory, as far as masks need it."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.fusion = MaskFusion(num_heads)

    def forward(self, queries: Tensor, memory: Tensor, sizes: list[Size]) -> AttentionMap:
        """Return where the queries (B, N, D) look in the memory (B, S', D)."""
        q = self._split_heads(self.q(queries) * self.scale)
        return AttentionMap(q, self._split_heads(self.k(memory)), sizes, self.fusion)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class MaskCrossAttention(MaskAttention):
    """The same, and what the queries read there."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def read(self, attention: AttentionMap, memory: Tensor) -> Tensor:
        """Return what is read (B, N, D) from the memory (B, S', D)."""
        v = self._split_heads(self.v(memory))
        read = F.scaled_dot_product_attention(attention.q, attention.k, v, scale=1.0)  # q is scaled
        return self.proj(read.transpose(1, 2).flatten(2))
