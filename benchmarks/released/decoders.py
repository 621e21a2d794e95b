"""The decoders with every head and every mask.

Shape legend: B pictures, D model width, M heads, N queries, S' tokens of the levels that masks are made of, Hl, Wl size
of level l, K_st stuff classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_segformer.modeling.levels import FeatureLevels, Size
from panoptic_segformer.modeling.location_decoder import LocationDecoder, LocationOutput
from panoptic_segformer.modeling.mask_decoder import MaskDecoder, StuffMaskDecoder, ThingMaskDecoder

__all__ = ["EagerLocationDecoder", "EagerStuffMaskDecoder", "EagerThingMaskDecoder"]


class EagerLocationDecoder(LocationDecoder):
    """Location decoder that predicts classes and boxes after every layer in inference as in training."""

    def forward(self, memory: Tensor, levels: FeatureLevels) -> LocationOutput:
        """Decode the queries as LocationDecoder does in training; its dropout is as the decoder's mode says."""
        was_training, self.training = self.training, True  # of this module alone: the layers keep their mode
        try:
            return super().forward(memory, levels)
        finally:
            self.training = was_training


class EagerThingMaskDecoder(ThingMaskDecoder):
    """Thing mask decoder that makes all masks."""

    def forward(self, queries: Tensor, memory: Tensor, sizes: list[Size]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the queries (B, N, D) after each block and all masks (B, N, H1, W1), the final one last."""
        return _decode(self, queries, None, memory, sizes)


class EagerStuffMaskDecoder(StuffMaskDecoder):
    """Stuff mask decoder that makes all masks and logits."""

    def forward(self, memory: Tensor, sizes: list[Size]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the presence logits (B, K_st) of all blocks and all masks (B, K_st, H1, W1), the final one last."""
        content, positions = self.query_embedding.weight.chunk(2, dim=-1)
        states, masks = _decode(self, content.expand(len(memory), -1, -1), positions, memory, sizes)
        return [head(state)[..., 0] for head, state in zip(self.class_heads, states, strict=True)], masks


def _decode(
    decoder: MaskDecoder, queries: Tensor, positions: Tensor | None, memory: Tensor, sizes: list[Size]
) -> tuple[list[Tensor], list[Tensor]]:
    states, masks = [], []
    for block in decoder.blocks:
        attention = block.cross_attention
        queries = _place(queries, positions)
        if block.self_attention is not None:
            queries = block.self_norm(queries + block.self_attention(queries))
        logits = _logits(attention, queries, memory)
        read = logits.softmax(-1) @ _split_heads(attention, attention.v(memory))
        queries = block.norm1(queries + attention.proj(read.transpose(1, 2).flatten(2)))
        queries = block.norm2(queries + block.feed_forward(queries))
        states.append(queries)
        masks.append(_fuse(attention.fusion, logits, sizes))
    last = decoder.final_attention
    masks.append(_fuse(last.fusion, _logits(last, _place(queries, positions), memory), sizes))
    return states, masks


def _place(queries: Tensor, positions: Tensor | None) -> Tensor:
    return queries if positions is None else queries + positions


def _logits(attention: nn.Module, queries: Tensor, memory: Tensor) -> Tensor:
    """Return the attention logits (B, M, N, S') of queries (B, N, D) and memory (B, S', D)."""
    q = _split_heads(attention, attention.q(queries) * attention.scale)
    return q @ _split_heads(attention, attention.k(memory)).transpose(-1, -2)


def _split_heads(attention: nn.Module, x: Tensor) -> Tensor:
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _fuse(fusion: nn.Module, logits: Tensor, sizes: list[Size]) -> Tensor:
    """Map logits (B, M, N, S') to masks (B, N, H1, W1): M channels of each level at the finest level's size."""
    batch, num_heads, num_queries, _ = logits.shape
    areas = [height * width for height, width in sizes]
    channels = []
    for level, mixer, size in zip(logits.split(areas, -1), fusion.head_mixers, sizes, strict=True):
        mixed = F.relu(mixer(level.permute(0, 2, 3, 1)))  # (B, N, Hl*Wl, M)
        if size != sizes[0]:
            maps = mixed.transpose(-1, -2).reshape(batch * num_queries, num_heads, *size)
            maps = F.interpolate(maps, sizes[0], mode="bilinear", align_corners=False)
            mixed = maps.flatten(2).unflatten(0, (batch, num_queries)).transpose(-1, -2)
        channels.append(mixed)
    return F.relu(fusion.fuse(torch.cat(channels, dim=-1))).view(batch, num_queries, *sizes[0])
