"""Encoder layers on all tokens at once, and deformable attention by grid_sample, as it is usually written.

Shape legend: B pictures, M heads, D model width, Q queries, S tokens, L levels of sizes (Hl, Wl), P points.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from panoptic_segformer.modeling.deformable_attention import DeformableAttention
from panoptic_segformer.modeling.encoder import EncoderLayer
from panoptic_segformer.modeling.levels import FeatureLevels

__all__ = ["GridSampleAttention", "WholeEncoderLayer"]


class WholeEncoderLayer(EncoderLayer):
    """Encoder layer whose every step takes all tokens."""

    def forward(self, tokens: Tensor, positions: Tensor, reference: Tensor, levels: FeatureLevels) -> Tensor:
        """Map tokens (B, S, D) to the same shape, as EncoderLayer does."""
        attended = self.self_attention(tokens + positions, reference, tokens, levels)
        tokens = self.norm1(tokens + self.dropout(attended))
        return self.norm2(tokens + self.feed_forward(tokens))


class GridSampleAttention(DeformableAttention):
    """Deformable attention whose steps are tensors of their own."""

    def forward(self, queries: Tensor, reference: Tensor, memory: Tensor, levels: FeatureLevels) -> Tensor:
        """Return what the queries read, as DeformableAttention does: (B, Q, D)."""
        batch, num_queries, _ = queries.shape
        heads = (self.num_heads, self.num_levels, self.num_points)
        value = self.value_proj(memory).unflatten(-1, (self.num_heads, -1))
        offsets = self.sampling_offsets(queries).view(batch, num_queries, *heads, 2)
        weights = self.attention_weights(queries).view(batch, num_queries, self.num_heads, -1).softmax(-1)
        centres = reference[:, :, None, :, None, :2]
        if reference.shape[-1] == 2:
            cells = reference.new_tensor(levels.shapes).flip(-1)[:, None]
            locations = centres + offsets / cells
        else:
            locations = centres + offsets / self.num_points * reference[:, :, None, :, None, 2:] * 0.5
        return self.output_proj(_sum_samples(value, levels.shapes, locations, weights))


def _sum_samples(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sum the samples of value (B, S, M, D/M) at (B, Q, M, L, P, 2), weighted by (B, Q, M, L*P): (B, Q, D)."""
    batch, num_queries, num_heads = weights.shape[:3]
    # By level, each in one piece: that takes grid_sample half the time of a strided grid.
    grid = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2).contiguous()  # (L, B*M, Q, P, 2)
    maps = value.split([height * width for height, width in shapes], dim=1)
    samples = [
        F.grid_sample(  # (B*M, D/M, Q, P)
            level.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, shape),
            places,
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        for level, places, shape in zip(maps, grid, shapes, strict=True)
    ]
    weights = weights.transpose(1, 2).reshape(batch * num_heads, 1, num_queries, -1)
    output = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)  # (B*M, D/M, Q)
    return output.view(batch, -1, num_queries).transpose(1, 2)
