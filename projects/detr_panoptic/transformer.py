"""DETR's transformer: the coarsest feature to a memory, learned queries to one embedding per possible segment.

Paper: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.2.
Shape legend: B pictures, D model width, h, w size of the coarsest feature, S = h * w tokens, Q queries.
"""

from __future__ import annotations

from torch import Tensor, nn

from panoptic_segformer.modeling.levels import FeatureLevels
from panoptic_segformer.modeling.position_encoding import sine_position_encoding
from panoptic_segformer.modeling.transformer import TransformerDecoder, TransformerEncoder

__all__ = ["Transformer"]


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
        tokens = levels.tokens()
        (encoding,) = sine_position_encoding(levels, first=1.0)
        positions = encoding.flatten(2).transpose(1, 2).to(tokens.dtype)
        memory = self.encoder(tokens, positions, levels.padding)
        queries = self.decoder(query_positions, memory, positions, levels.padding)
        return memory.transpose(1, 2).unflatten(2, levels.shapes[0]), queries
