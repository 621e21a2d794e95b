"""Mask decoders: queries attend to the memory, and their attention maps are the masks.

Paper, section 3.4. Masks are ReLU outputs, not probabilities: they are unbounded, and 0.5 separates inside from
outside (quirk Q5). Every picture is decoded from its own tokens, so padding takes part in no softmax (the released
code lets it, quirk Q6). Shape legend: B pictures, D model width, M heads, N queries, S' tokens of the levels that
masks are made of, Hl, Wl size of level l.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .encoder import xavier_initialize
from .levels import Size
from .location_decoder import box_head, class_head
from .mlp import FeedForward

__all__ = ["NUM_MASK_LEVELS", "ClassifyingMaskDecoder", "StuffMaskDecoder", "ThingMaskDecoder"]

# Masks are fused from the levels of strides 8, 16 and 32; the coarsest level of the memory is left out.
NUM_MASK_LEVELS = 3
LAYER_NORM_EPSILON = 1e-6


class MaskFusion(nn.Module):
    """Attention logits of all heads and levels to one mask per query at the finest level."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.head_mixers = nn.ModuleList(nn.Linear(num_heads, num_heads) for _ in range(NUM_MASK_LEVELS))
        self.fuse = nn.Linear(NUM_MASK_LEVELS * num_heads, 1)

    def forward(self, logits: Tensor, sizes: list[Size]) -> Tensor:
        """Map logits: (B, M, N, S') before the softmax to masks (B, N, H1, W1), values >= 0.

        The fusing layer is linear, and so is upsampling: each level is reduced to one channel at its own size
        and only then brought to the finest one, which gives the released result for an eighth of the work.
        """
        batch, num_heads, num_queries, _ = logits.shape
        weights = self.fuse.weight.view(NUM_MASK_LEVELS, 1, num_heads)
        areas = [height * width for height, width in sizes]
        fused = None
        for level, mixer, weight, size in zip(logits.split(areas, -1), self.head_mixers, weights, sizes, strict=True):
            mixed = F.relu(mixer.weight @ level.flatten(2) + mixer.bias[:, None])
            mask = (weight @ mixed).view(batch * num_queries, 1, *size)
            if size != sizes[0]:
                mask = F.interpolate(mask, sizes[0], mode="bilinear", align_corners=False)
            fused = mask if fused is None else fused + mask
        return F.relu(fused + self.fuse.bias).view(batch, num_queries, *sizes[0])


class MaskAttention(nn.Module):
    """Attention logits of queries and memory, and the mask that they make."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.fusion = MaskFusion(num_heads)

    def forward(self, queries: Tensor, memory: Tensor, sizes: list[Size]) -> Tensor:
        """Return the masks (B, N, H1, W1) of queries: (B, N, D) in memory: (B, S', D)."""
        return self.fusion(self._logits(queries, memory), sizes)

    def _logits(self, queries: Tensor, memory: Tensor) -> Tensor:
        q = self._split_heads(self.q(queries) * self.scale)
        return q @ self._split_heads(self.k(memory)).transpose(-1, -2)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class MaskCrossAttention(MaskAttention):
    """The same, and what the queries read from the memory by it."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def read(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return what queries: (B, N, D) read from memory: (B, S', D), without the mask: (B, N, D)."""
        q, k, v = (
            self._split_heads(linear(x)) for linear, x in ((self.q, queries), (self.k, memory), (self.v, memory))
        )
        return self._merge_heads(F.scaled_dot_product_attention(q, k, v, scale=self.scale))

    def read_with_mask(self, queries: Tensor, memory: Tensor, sizes: list[Size]) -> tuple[Tensor, Tensor]:
        """Return what the queries read (B, N, D) and their masks (B, N, H1, W1)."""
        logits = self._logits(queries, memory)
        read = self._merge_heads(logits.softmax(-1) @ self._split_heads(self.v(memory)))
        return read, self.fusion(logits, sizes)

    def _merge_heads(self, x: Tensor) -> Tensor:
        return self.proj(x.transpose(1, 2).flatten(2))


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

    def forward(
        self, queries: Tensor, memory: Tensor, sizes: list[Size], with_mask: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the refined queries (B, N, D) and, if asked for, their masks (B, N, H1, W1)."""
        if self.self_attention is not None:
            queries = self.self_norm(queries + self.self_attention(queries))
        if with_mask:
            read, mask = self.cross_attention.read_with_mask(queries, memory, sizes)
        else:
            read, mask = self.cross_attention.read(queries, memory), None
        queries = self.norm1(queries + read)
        return self.norm2(queries + self.feed_forward(queries)), mask


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
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run the layers: all in training, the first ones in inference if so asked.

        Args:
            queries: (B, N, D).
            positions: (N, D) added to the queries in front of every block (quirk Q8), or None.
            memory: (B, S', D) tokens of the mask levels, without padding.
            sizes: (height, width) of these levels, finest first.
            num_layers: how many layers (blocks and the last attention) run in inference, 0 = all. Every layer learns
                to give the mask, so that the last one that runs has it (paper, ablation of mask decoder layers).
        Returns: the queries after each block; the masks (B, N, H1, W1), the final one last. The masks of the
            blocks come before it in training only: inference has no use for them.
        """
        states, masks = [], []
        last_block = len(self.blocks) if self.training or not num_layers else num_layers
        for number, block in enumerate(self.blocks[:last_block], start=1):
            with_mask = self.training or number == num_layers
            queries, mask = block(_place(queries, positions), memory, sizes, with_mask)
            states.append(queries)
            if mask is not None:
                masks.append(mask)
        if self.training or not num_layers or num_layers > len(self.blocks):
            masks.append(self.final_attention(_place(queries, positions), memory, sizes))
        return states, masks


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

    def forward(self, queries: Tensor, memory: Tensor, sizes: list[Size], num_layers: int = 0) -> list[Tensor]:
        """Return the masks of queries: (B, N, D), as `decode` does; N may be 0."""
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

    def forward(self, memory: Tensor, sizes: list[Size], num_layers: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        """Return the presence logits (B, K_st) of all blocks (in inference of the last that runs) and the masks.

        Masks are `decode`'s: (B, K_st, H1, W1), the final one last.
        """
        content, positions = self.query_embedding.weight.chunk(2, dim=-1)
        states, masks = self.decode(content.expand(len(memory), -1, -1), positions, memory, sizes, num_layers)
        first = 0 if self.training else len(states) - 1
        pairs = zip(self.class_heads[first : len(states)], states[first:], strict=True)
        return [torch.squeeze(head(state), -1) for head, state in pairs], masks


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
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the class logits (B, N, K) of all blocks (in inference of the last that runs) and the masks.

        Queries are (B, N, D), the masks `decode`'s.
        """
        states, masks = self.decode(queries, None, memory, sizes, num_layers)
        return [self.class_head(state) for state in (states if self.training else states[-1:])], masks
