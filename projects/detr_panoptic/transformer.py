"""DETR's transformer: the coarsest feature to a memory, learned queries to one embedding per possible segment.

Paper: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.2.
Shape legend: B pictures, D model width, h, w size of the coarsest feature, S = h * w tokens, Q queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from panoptic_segformer.modeling.levels import FeatureLevels
from panoptic_segformer.modeling.position_encoding import encode_axis
from panoptic_segformer.modeling.transformer import TransformerDecoder, TransformerEncoder

__all__ = ["Transformer", "position_encoding"]


class Transformer(nn.Module):
    """Encoder and decoder; tokens in the padding of a batch are read by nothing."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_heads": num_heads, "feedforward_dim": feedforward_dim, "dropout": dropout}
        self.encoder = TransformerEncoder(**sizes, num_layers=num_encoder_layers)
        self.decoder = TransformerDecoder(**sizes, num_layers=num_decoder_layers)

    def forward(self, levels: FeatureLevels, query_positions: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode and decode.

        Args:
            levels: one level (B, D, h, w).
            query_positions: (Q, D), learned.
        Returns: the memory (B, D, h, w); the queries (B, Q, D) behind every decoder layer, outside training behind
            the last one alone.
        """
        positions = position_encoding(levels).flatten(2).transpose(1, 2)
        memory = self.encoder(levels.tokens(), positions, levels.padding)
        queries = self.decoder(query_positions, memory, positions, levels.padding)
        return memory.transpose(1, 2).unflatten(2, levels.shapes[0]), queries


def position_encoding(levels: FeatureLevels) -> Tensor:
    """Return the sine encoding (B, D, h, w) of the only level, first half of D for y, second for x.

    Cells are counted from 1 in each picture's own area: the first one is not at 0, the last one closes the circle.
    """
    ((height, width),) = levels.shapes
    dim = levels.maps[0].shape[1] // 2
    own_heights, own_widths = levels.size_tensor[:, 0].unbind(1)
    y = encode_axis(height, own_heights, dim, first=1.0)[:, :, :, None].expand(-1, -1, -1, width)
    x = encode_axis(width, own_widths, dim, first=1.0)[:, :, None, :].expand(-1, -1, height, -1)
    return torch.cat([y, x], dim=1)
