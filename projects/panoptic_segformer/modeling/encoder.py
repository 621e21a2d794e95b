"""Transformer encoder: refines the tokens of all levels by multi-scale deformable attention.

Paper, section 3.2. Shape legend: B pictures, D model width, S tokens of all levels, L levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .deformable_attention import DeformableAttention
from .levels import FeatureLevels
from .mlp import FeedForward
from .position_encoding import sine_position_encoding

__all__ = ["Encoder", "xavier_initialize"]

# Tokens that go through the feed-forward network at a time on a CPU: what lies between its layers stays in the caches.
# All at once take a third longer and 80 MB more at 800x1216.
TOKENS_PER_PART = 1024


def xavier_initialize(module: nn.Module) -> None:
    """Draw every matrix of a module from Xavier's uniform distribution; deformable attention keeps its own start."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for child in module.modules():
        if isinstance(child, DeformableAttention):
            child.reset_parameters()


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with residual sum and layer norm after it."""

    def __init__(self, dim: int, feedforward_dim: int, dropout: float, attention: DeformableAttention) -> None:
        super().__init__()
        self.self_attention = attention
        self.norm1 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feedforward_dim, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, reference: Tensor, levels: FeatureLevels) -> Tensor:
        """Map tokens: (B, S, D) to the same shape; positions likewise, reference as DeformableAttention's."""
        attended = self.self_attention(tokens + positions, reference, tokens, levels)
        if tokens.device.type != "cpu" or torch.compiler.is_compiling():
            return self._refine(tokens, attended)
        parts = zip(
            tokens.flatten(0, 1).split(TOKENS_PER_PART), attended.flatten(0, 1).split(TOKENS_PER_PART), strict=True
        )
        return torch.cat([self._refine(*part) for part in parts]).view_as(tokens)

    def _refine(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Do everything that tokens (..., D) go through on their own, after what they have read (..., D)."""
        tokens = self.norm1(tokens + self.dropout(attended))
        return self.norm2(tokens + self.feed_forward(tokens))


class Encoder(nn.Module):
    """A stack of encoder layers over the flattened levels."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        num_layers: int,
        num_levels: int,
        num_points: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.level_embedding = nn.Parameter(torch.empty(num_levels, dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, feedforward_dim, dropout, DeformableAttention(dim, num_heads, num_levels, num_points))
            for _ in range(num_layers)
        )
        xavier_initialize(self)
        nn.init.normal_(self.level_embedding)

    def forward(self, levels: FeatureLevels) -> Tensor:
        """Return the memory (B, S, D) of the batch's feature levels."""
        tokens = levels.tokens()
        encodings = [
            (encoding + embedding[:, None, None]).flatten(2).transpose(1, 2)
            for encoding, embedding in zip(sine_position_encoding(levels), self.level_embedding, strict=True)
        ]
        positions = torch.cat(encodings, dim=1).to(tokens.dtype)
        reference = levels.reference_points()[:, :, None] * levels.valid_ratios[:, None]
        for layer in self.layers:
            tokens = layer(tokens, positions, reference, levels)
        return tokens
