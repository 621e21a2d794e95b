"""The transformer of DETR: post-norm layers whose attention sees all tokens.

Names of parameters are those of its released checkpoints, which MaskFormer's share.
Reference: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, appendix A.
Shape legend: B pictures, D model width, S tokens, Q queries.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .encoder import xavier_initialize

__all__ = ["TransformerDecoder", "TransformerEncoder"]


class _Layer(nn.Module):
    """What layers of both kinds have: self-attention and a feed-forward network."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward network, each with residual sum and layer norm after it."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__(dim, num_heads, feedforward_dim, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """Map tokens (B, S, D); arguments as `TransformerEncoder`'s."""
        placed = tokens + positions
        attended, _ = self.self_attn(placed, placed, tokens, key_padding_mask=padding, need_weights=False)
        tokens = self.norm1(tokens + self.dropout(attended))
        return self.norm2(tokens + self._feed_forward(tokens))


class TransformerDecoderLayer(_Layer):
    """Self-attention of queries, attention to the memory and a feed-forward network, each summed and normalised."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__(dim, num_heads, feedforward_dim, dropout)
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, query_positions: Tensor, memory: Tensor, placed_memory: Tensor, padding: Tensor | None
    ) -> Tensor:
        """Map queries (B, Q, D); placed_memory is the memory plus its positions, the rest as `TransformerDecoder`'s."""
        placed = queries + query_positions
        attended, _ = self.self_attn(placed, placed, queries, need_weights=False)
        queries = self.norm1(queries + self.dropout(attended))
        attended, _ = self.multihead_attn(
            queries + query_positions, placed_memory, memory, key_padding_mask=padding, need_weights=False
        )
        queries = self.norm2(queries + self.dropout(attended))
        return self.norm3(queries + self._feed_forward(queries))


class TransformerEncoder(nn.Module):
    """A stack of encoder layers; matrices start from Xavier's uniform distribution."""

    def __init__(self, *, dim: int, num_heads: int, feedforward_dim: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        xavier_initialize(self)

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return the memory (B, S, D).

        Args:
            tokens: (B, S, D).
            positions: (B, S, D) or (1, S, D), their encodings.
            padding: (B, S) bool, which tokens nothing may read; None where there are none.
        """
        for layer in self.layers:
            tokens = layer(tokens, positions, padding)
        return tokens


class TransformerDecoder(nn.Module):
    """A stack of decoder layers with one norm that all outputs share."""

    def __init__(self, *, dim: int, num_heads: int, feedforward_dim: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerDecoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        xavier_initialize(self)

    def forward(
        self, query_positions: Tensor, memory: Tensor, positions: Tensor, padding: Tensor | None = None
    ) -> list[Tensor]:
        """Return the normalised queries (B, Q, D) behind every layer; outside training behind the last one alone.

        Args:
            query_positions: (Q, D), learned; the queries themselves start from zero.
            memory: (B, S, D).
            positions: (B, S, D) or (1, S, D), of the memory.
            padding: (B, S) bool, as in the encoder.
        """
        query_positions = query_positions.expand(len(memory), -1, -1)
        queries = query_positions.new_zeros(query_positions.shape)
        placed_memory = memory + positions
        outputs = []
        for layer in self.layers:
            queries = layer(queries, query_positions, memory, placed_memory, padding)
            if self.training or layer is self.layers[-1]:
                outputs.append(self.norm(queries))
        return outputs
