"""The small feed-forward networks that encoder, decoders and heads share.

Shape legend: D model width, F hidden width.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FeedForward", "PredictionMLP"]


class FeedForward(nn.Module):
    """Two linear layers D -> F -> D around a ReLU, with dropout behind both; the residual sum is the caller's."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (..., D) to the same shape."""
        # Dropout and ReLU may change places. In this order the second linear layer and the ReLU keep the same tensor
        # for the backward pass, the widest of a layer.
        return self.dropout(self.linear2(F.relu(self.dropout(self.linear1(x)), inplace=True)))


class SmoothFeedForward(nn.Module):
    """Two linear layers D -> F -> D around a GELU; the residual sum is the caller's."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (..., D) to the same shape."""
        return self.linear2(F.gelu(self.linear1(x)))


class PredictionMLP(nn.Module):
    """Linear layers with ReLU between them, as DETR predicts boxes."""

    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (..., dims[0]) to (..., dims[-1])."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
