"""Queries that become a class and a mask each.

Paper, section 3.4 (transformer module and segmentation module). Names of parameters are those of released checkpoints.
Shape legend: B pictures, D width, Q queries, K classes, L outputs of decoder layers, h, w size of the mask features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from panoptic_segformer.modeling.mlp import PredictionMLP
from panoptic_segformer.modeling.transformer import TransformerDecoder, TransformerEncoder

from .pixel_decoder import PixelDecoder, encode_map, grid_encoding, projection

__all__ = ["MaskFormerHead", "Prediction", "Predictor"]


@dataclass(frozen=True)
class Prediction:
    """Classes and masks behind one decoder layer.

    Attributes:
        class_logits: (B, Q, K + 1), "no object" last.
        mask_logits: (B, Q, h, w).
    """

    class_logits: Tensor
    mask_logits: Tensor


class Predictor(nn.Module):
    """A transformer from a coarse map to queries, and the heads that all its layers share."""

    def __init__(
        self,
        *,
        in_channels: int,
        project: bool,
        num_queries: int,
        num_classes: int,
        mask_dim: int,
        encoder: TransformerEncoder,
        decoder: TransformerDecoder,
    ) -> None:
        """Build the predictor.

        Args:
            in_channels: of the map that the queries attend to.
            project: whether a convolution makes them the decoder's width.
            num_queries: Q.
            num_classes: K.
            mask_dim: width of the mask features.
            encoder: of the map; may have no layers.
            decoder: of the queries.
        """
        super().__init__()
        dim = decoder.norm.normalized_shape[0]
        self.input_proj = projection(in_channels, dim) if project else nn.Identity()
        # The children give their parameters the prefixes that they have in checkpoints.
        self.transformer = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        self.query_embed = nn.Embedding(num_queries, dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.mask_embed = PredictionMLP([dim, dim, dim, mask_dim])

    def forward(self, coarse_map: Tensor, mask_features: Tensor) -> list[Prediction]:
        """Return the predictions of all layers; outside training of the last one alone.

        Args:
            coarse_map: (B, in_channels, h', w').
            mask_features: (B, mask_dim, h, w).
        """
        x = self.input_proj(coarse_map)
        x = encode_map(self.transformer["encoder"], x)
        memory, positions = x.flatten(2).transpose(1, 2), grid_encoding(x)
        queries = self.transformer["decoder"](self.query_embed.weight, memory, positions)
        return [self._predict(layer, mask_features) for layer in queries]

    def _predict(self, queries: Tensor, mask_features: Tensor) -> Prediction:
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_embed(queries), mask_features)
        return Prediction(self.class_embed(queries), masks)


class MaskFormerHead(nn.Module):
    """Pixel decoder and predictor."""

    def __init__(self, pixel_decoder: PixelDecoder, predictor: Predictor, in_features: list[str], source: str) -> None:
        """Keep the parts.

        Args:
            pixel_decoder: makes mask features.
            predictor: makes classes and masks.
            in_features: names of the features for the pixel decoder, finest first.
            source: name of the feature that queries attend to; any other word stands for the pixel decoder's encoder.
        """
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.in_features = in_features
        self.source = source

    def forward(self, features: dict[str, Tensor]) -> list[Prediction]:
        """Map features of the backbone by name, (B, C, h, w), to predictions; see `Predictor`."""
        mask_features, encoded = self.pixel_decoder([features[name] for name in self.in_features])
        return self.predictor(features.get(self.source, encoded), mask_features)
