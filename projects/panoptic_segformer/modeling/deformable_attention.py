"""Multi-scale deformable attention as a module: offsets and weights from queries around the operator.

Reference: Zhu et al., "Deformable DETR", ICLR 2021, section 4.1.
Shape legend: B pictures, D model width, Q queries, S tokens, L levels, M heads, P points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops import ms_deform_attn_fused
from .levels import FeatureLevels

__all__ = ["DeformableAttention"]


class DeformableAttention(nn.Module):
    """Every head of every query reads P points per level around its reference point."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"model width {dim} is not a multiple of the number of heads {num_heads}")
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        num_samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, num_samples * 2)
        self.attention_weights = nn.Linear(dim, num_samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let head k look in direction k, point p at distance p + 1, with equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None, :] * distances[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        queries: Tensor,
        reference: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
    ) -> Tensor:
        """Return what the queries read from the memory, (B, Q, D).

        Args:
            queries: (B, Q, D), position included.
            reference: (B, Q, L, 2) points (x, y), or (B, Q, L, 4) boxes (cx, cy, w, h), in units of the padded level;
                offsets count cells of their level, or shares of the box. float32 at least, whatever the queries' dtype.
            memory: (B, S, D) tokens that are read, position not included.
            levels: the levels that the memory holds; their padding reads as zero.
        """
        batch, num_queries, _ = queries.shape
        heads = (self.num_heads, self.num_levels, self.num_points)
        value = self.value_proj(memory)
        if levels.padding is not None:
            value = value.masked_fill(levels.padding[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, -1))
        offsets = self.sampling_offsets(queries).view(batch, num_queries, *heads, 2)
        logits = self.attention_weights(queries).view(batch, num_queries, *heads)
        output = ms_deform_attn_fused(value, levels.shapes, reference, offsets, logits)
        return self.output_proj(output)
