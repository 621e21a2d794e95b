"""Mask decoders: queries attend to the memory, and their attention maps are the masks.

Paper, section 3.4. Masks are ReLU outputs, not probabilities: they are unbounded, and 0.5 separates inside from
outside (quirk Q5). Every picture is decoded from its own tokens, so padding takes part in no softmax (the released
code lets it, quirk Q6). Shape legend: B pictures, D model width, N queries, S' tokens of the levels that masks are made
of, H1, W1 size of the finest of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .encoder import xavier_initialize
from .levels import Size
from .location_decoder import box_head, class_head
from .mask_attention import AttentionMap, MaskAttention, MaskCrossAttention
from .mlp import FeedForward

__all__ = ["ClassifyingMaskDecoder", "StuffMaskDecoder", "ThingMaskDecoder"]

LAYER_NORM_EPSILON = 1e-6


class SelfAttention(nn.Module):
    """Plain attention among queries, with one projection for query, key and value."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (B, N, D) to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MaskDecoderBlock(nn.Module):
    """Cross-attention with a mask and a feed-forward network; self-attention in front of it if asked for."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, with_self_attention: bool) -> None:
        super().__init__()
        self.self_attention = SelfAttention(dim, num_heads) if with_self_attention else None
        self.self_norm = nn.LayerNorm(dim, LAYER_NORM_EPSILON) if with_self_attention else None
        self.cross_attention = MaskCrossAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim, LAYER_NORM_EPSILON)
        self.feed_forward = FeedForward(dim, feedforward_dim, activation=nn.GELU)
        self.norm2 = nn.LayerNorm(dim, LAYER_NORM_EPSILON)

    def forward(self, queries: Tensor, memory: Tensor, sizes: list[Size]) -> tuple[Tensor, AttentionMap]:
        """Return the refined queries (B, N, D) and where they looked."""
        if self.self_attention is not None:
            queries = self.self_norm(queries + self.self_attention(queries))
        attention = self.cross_attention(queries, memory, sizes)
        queries = self.norm1(queries + self.cross_attention.read(attention, memory))
        return self.norm2(queries + self.feed_forward(queries)), attention


class MaskDecoder(nn.Module):
    """Blocks that refine the queries, and a last attention whose map is the final mask."""

    def __init__(
        self, *, dim: int, num_heads: int, feedforward_dim: int, num_blocks: int, with_self_attention: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            MaskDecoderBlock(dim, num_heads, feedforward_dim, with_self_attention) for _ in range(num_blocks)
        )
        self.final_attention = MaskAttention(dim, num_heads)
        xavier_initialize(self)

    def decode(
        self,
        queries: Tensor,
        positions: Tensor | None,
        memory: Tensor,
        sizes: list[Size],
        num_layers: int = 0,
    ) -> tuple[list[Tensor], list[AttentionMap]]:
        """Run the layers: all in training, the first ones in inference if so asked.

        Args:
            queries: (B, N, D).
            positions: (N, D) added to the queries in front of every block (quirk Q8), or None.
            memory: (B, S', D) tokens of the mask levels, without padding.
            sizes: (height, width) of these levels, finest first.
            num_layers: how many layers (blocks and the last attention) run in inference, 0 = all. Every layer learns
                to give the mask, so that the last one that runs has it (paper, ablation of mask decoder layers).
        Returns: the queries after each block that ran; the maps of all layers in training, otherwise of the last one.
        """
        states: list[Tensor] = []
        maps: list[AttentionMap] = []
        num_blocks = len(self.blocks) if self.training or not num_layers else num_layers
        for block in self.blocks[:num_blocks]:
            queries, attention = block(_place(queries, positions), memory, sizes)
            states.append(queries)
            maps = [*maps, attention] if self.training else [attention]
        if self.training or not num_layers or num_layers > len(self.blocks):
            attention = self.final_attention(_place(queries, positions), memory, sizes)
            maps = [*maps, attention] if self.training else [attention]
        return states, maps


def _place(queries: Tensor, positions: Tensor | None) -> Tensor:
    return queries if positions is None else queries + positions


class ThingMaskDecoder(MaskDecoder):
    """Masks of thing queries, each query on its own."""

    def __init__(self, *, num_classes: int, dim: int, num_heads: int, feedforward_dim: int, num_blocks: int) -> None:
        super().__init__(
            dim=dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            num_blocks=num_blocks,
            with_self_attention=False,
        )
        # Parameters of the released model whose losses it multiplies by zero (quirk Q13): they are kept so that
        # checkpoints carry over in both directions, and never run.
        self.unused_class_heads = nn.ModuleList(class_head(dim, num_classes) for _ in range(num_blocks))
        self.unused_box_heads = nn.ModuleList(box_head(dim) for _ in range(num_blocks))

    def forward(self, queries: Tensor, memory: Tensor, sizes: list[Size], num_layers: int = 0) -> list[AttentionMap]:
        """Return the maps of queries: (B, N, D), as `decode` does; N may be 0."""
        return self.decode(queries, None, memory, sizes, num_layers)[1]


class StuffMaskDecoder(MaskDecoder):
    """Masks and presence of all stuff classes, one learned query per class."""

    def __init__(self, *, num_classes: int, dim: int, num_heads: int, feedforward_dim: int, num_blocks: int) -> None:
        super().__init__(
            dim=dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            num_blocks=num_blocks,
            with_self_attention=True,
        )
        # First half: content, second half: position.
        self.query_embedding = nn.Embedding(num_classes, 2 * dim)
        self.class_heads = nn.ModuleList(class_head(dim, 1) for _ in range(num_blocks))

    def forward(
        self, memory: Tensor, sizes: list[Size], num_layers: int = 0
    ) -> tuple[list[Tensor], list[AttentionMap]]:
        """Return the presence logits (B, K_st) of all blocks (in inference of the last that runs) and the maps.

        The maps, of N = K_st queries, are `decode`'s.
        """
        content, positions = self.query_embedding.weight.chunk(2, dim=-1)
        states, maps = self.decode(content.expand(len(memory), -1, -1), positions, memory, sizes, num_layers)
        first = 0 if self.training else len(states) - 1
        pairs = zip(self.class_heads[first : len(states)], states[first:], strict=True)
        return [torch.squeeze(head(state), -1) for head, state in pairs], maps


class ClassifyingMaskDecoder(MaskDecoder):
    """Masks and classes of queries that no location decoder has classified.

    It is the first version's mask decoder, of things and stuff together, and that of things behind a location decoder
    without layers. All blocks share one classifier: the first version's parameter count has room for one.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        num_blocks: int,
        with_self_attention: bool,
    ) -> None:
        super().__init__(
            dim=dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            num_blocks=num_blocks,
            with_self_attention=with_self_attention,
        )
        self.class_head = class_head(dim, num_classes)

    def forward(
        self, queries: Tensor, memory: Tensor, sizes: list[Size], num_layers: int = 0
    ) -> tuple[list[Tensor], list[AttentionMap]]:
        """Return the class logits (B, N, K) of all blocks (in inference of the last that runs) and the maps.

        Queries are (B, N, D), the maps `decode`'s.
        """
        states, maps = self.decode(queries, None, memory, sizes, num_layers)
        return [self.class_head(state) for state in (states if self.training else states[-1:])], maps
