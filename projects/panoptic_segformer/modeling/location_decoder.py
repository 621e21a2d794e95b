"""Location decoder: queries learn where, and in the released form what, refined layer by layer.

Paper, section 3.3; the iterative refinement is Deformable DETR's. The queries are those of things in the released
form and all of them in the joint one (docs/forms.md).
Shape legend: B pictures, D model width, Q queries, S tokens, L levels, K_th thing classes, C coordinates (4 or 2).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from .deformable_attention import DeformableAttention
from .encoder import xavier_initialize
from .levels import FeatureLevels
from .mlp import FeedForward, PredictionMLP
from .precision import at_least_float32

__all__ = ["CLASS_PRIOR", "Location", "LocationDecoder", "LocationOutput"]

# Probability that a fresh classifier gives to every class (Lin et al. 2017, section 3.3).
CLASS_PRIOR = 0.01
# Bounds the inverse sigmoid (Deformable DETR).
EPSILON = 1e-5


class Location(StrEnum):
    """What the location of a segment is, in units of the unpadded picture.

    The first version's centre and scale are the centre, width and height of the mask's box: its heads f_c and f_s
    are the two halves of the box head, and its loss has no GIoU.
    """

    BOX = "box"
    CENTER_SCALE = "center_scale"
    CENTER = "center"  # of the mask's mass, for models that shall know no boxes

    @property
    def num_coordinates(self) -> int:
        """Number of coordinates C: (cx, cy), followed by (w, h) unless it is a centre."""
        return 2 if self is Location.CENTER else 4


@dataclass(frozen=True)
class LocationOutput:
    """What the decoder says after its layers.

    Attributes:
        queries: (B, Q, D) states after the last layer.
        class_logits: per predicting layer (B, Q, K_th); all layers in training, otherwise the last alone. Empty
            where the mask decoder classifies the queries.
        boxes: likewise (B, Q, C), (cx, cy, w, h) or (cx, cy) in [0, 1] of the unpadded picture. Empty for a decoder
            without layers.
    """

    queries: Tensor
    class_logits: list[Tensor]
    boxes: list[Tensor]

    def of_pictures(self, pictures: Sequence[int]) -> LocationOutput:
        """Return what the decoder says of some pictures of the batch."""
        if len(pictures) == len(self.queries):
            return self
        pictures = list(pictures)
        return LocationOutput(
            self.queries[pictures],
            [logits[pictures] for logits in self.class_logits],
            [boxes[pictures] for boxes in self.boxes],
        )


class LocationDecoderLayer(nn.Module):
    """Self-attention among queries, deformable cross-attention to the memory, feed-forward network."""

    def __init__(self, dim: int, feedforward_dim: int, dropout: float, attention: DeformableAttention) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(dim, attention.num_heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attention = attention
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feedforward_dim, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, positions: Tensor, reference: Tensor, memory: Tensor, levels: FeatureLevels
    ) -> Tensor:
        """Map queries: (B, Q, D) to the same shape; positions likewise, the rest as DeformableAttention's."""
        placed = queries + positions
        attended = self.self_attention(placed, placed, queries, need_weights=False)[0]
        queries = self.norm1(queries + self.dropout(attended))
        attended = self.cross_attention(queries + positions, reference, memory, levels)
        queries = self.norm2(queries + self.dropout(attended))
        return self.norm3(queries + self.feed_forward(queries))


class LocationDecoder(nn.Module):
    """Queries with a location and, in the released form, a class per layer."""

    def __init__(  # noqa: PLR0913  each is one of the decoder's sizes
        self,
        *,
        num_classes: int,
        num_queries: int,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        num_layers: int,
        num_levels: int,
        num_points: int,
        dropout: float,
        location: Location = Location.BOX,
    ) -> None:
        """Build the decoder.

        Args:
            num_classes: K_th; 0 leaves the classes to the mask decoder.
            num_queries: Q.
            dim: D.
            num_heads: heads of all attentions.
            feedforward_dim: width of the feed-forward networks.
            num_layers: 0 passes the learned queries on as they are.
            num_levels: L.
            num_points: sampling points per head and level.
            dropout: share of activations that training drops.
            location: what the layers predict.
        """
        super().__init__()
        # First half: position, second half: content (the stuff queries have them the other way round, Q7).
        self.num_queries = num_queries
        self.query_embedding = nn.Embedding(num_queries, 2 * dim)
        # A decoder without layers has no use for them.
        self.reference_points = nn.Linear(dim, 2) if num_layers else None
        self.layers = nn.ModuleList(
            LocationDecoderLayer(
                dim, feedforward_dim, dropout, DeformableAttention(dim, num_heads, num_levels, num_points)
            )
            for _ in range(num_layers)
        )
        xavier_initialize(self.layers)
        if num_layers:
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)
        self.class_heads = _clones(class_head(dim, num_classes), num_layers) if num_classes else nn.ModuleList()
        self.box_heads = _clones(box_head(dim, location.num_coordinates), num_layers)
        if num_layers:
            # The first layer starts from small boxes.
            nn.init.constant_(self.box_heads[0].layers[-1].bias[2:], -2.0)

    def forward(self, memory: Tensor, levels: FeatureLevels) -> LocationOutput:
        """Decode the queries from memory: (B, S, D) of the given levels."""
        position, content = self.query_embedding.weight.chunk(2, dim=-1)
        positions = position.expand(len(memory), -1, -1)
        queries = content.expand(len(memory), -1, -1)
        if not self.layers:
            return LocationOutput(queries + positions, [], [])
        reference = at_least_float32(self.reference_points(positions)).sigmoid()
        ratios = levels.valid_ratios[:, None]
        class_logits, boxes = [], []
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            scale = ratios if reference.shape[-1] == 2 else torch.cat([ratios, ratios], dim=-1)
            queries = layer(queries, positions, reference[:, :, None] * scale, memory, levels)
            box = _refine(self.box_heads[index](queries), reference)
            reference = box.detach()
            if self.training or index == last:
                boxes.append(box)
                if self.class_heads:
                    class_logits.append(self.class_heads[index](queries))
        return LocationOutput(queries, class_logits, boxes)


def _refine(delta: Tensor, reference: Tensor) -> Tensor:
    """Return locations (B, Q, C): delta (B, Q, C) added to a reference of 2 or C coordinates before the sigmoid."""
    start = torch.log(reference.clamp(min=EPSILON) / (1 - reference).clamp(min=EPSILON))
    missing = delta.shape[-1] - start.shape[-1]
    return (at_least_float32(delta) + nn.functional.pad(start, (0, missing))).sigmoid()


def class_head(dim: int, num_classes: int) -> nn.Linear:
    """Return a classifier of queries that starts at the prior probability."""
    head = nn.Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
    return head


def box_head(dim: int, num_coordinates: int = 4) -> PredictionMLP:
    """Return a regressor of boxes or centres that starts by leaving its reference as it is."""
    head = PredictionMLP([dim, dim, dim, num_coordinates])
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head


def _clones(module: nn.Module, number: int) -> nn.ModuleList:
    return nn.ModuleList(copy.deepcopy(module) for _ in range(number))
