"""What may become a segment: queries with a class, a mask and, for things, a box.

Paper, section 3.6. Pictures of one size can be decoded together.
Shape legend: G pictures of one size, N candidates of one of them (things first), h, w mask size, D model width,
C coordinates, S' tokens of the levels that masks are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..modeling.levels import Size
from ..modeling.location_decoder import LocationOutput
from ..modeling.mask_decoder import ClassifyingMaskDecoder, StuffMaskDecoder, ThingMaskDecoder
from ..modeling.precision import at_least_float32

__all__ = ["Candidates", "MaskTokens", "classified_candidates", "stuff_candidates", "thing_candidates"]


@dataclass(frozen=True)
class MaskTokens:
    """What masks are decoded from.

    Attributes:
        memory: (G, S', D).
        sizes: (height, width) of its levels, finest first.
    """

    memory: Tensor
    sizes: list[Size]


@dataclass(frozen=True)
class Candidates:
    """Everything that may become a segment of one picture.

    Attributes:
        masks: (N, h, w) ReLU masks of the picture's own area.
        class_probs: (N,) in [0, 1].
        category_ids: (N,) contiguous ids of the dataset's metadata.
        is_thing: (N,) bool; things come first.
        boxes: (number of things, C) in [0, 1] of the picture: (cx, cy, w, h), or fewer coordinates where the model
            knows no boxes; they are taken from the masks then.
    """

    masks: Tensor
    class_probs: Tensor
    category_ids: Tensor
    is_thing: Tensor
    boxes: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """Return the candidates of all parts; only the first one may have things."""
        return cls(
            torch.cat([part.masks for part in parts]),
            torch.cat([part.class_probs for part in parts]),
            torch.cat([part.category_ids for part in parts]),
            torch.cat([part.is_thing for part in parts]),
            parts[0].boxes,
        )

    def select(self, keep: Tensor) -> Candidates:
        """Return the candidates at keep: (N,) bool."""
        index = keep.nonzero()[:, 0]
        return Candidates(
            self.masks[index],
            self.class_probs[index],
            self.category_ids[index],
            self.is_thing[index],
            self.boxes[keep[: len(self.boxes)]],
        )


def thing_candidates(
    decoder: ThingMaskDecoder,
    location: LocationOutput,
    tokens: MaskTokens,
    category_ids: Tensor,
    number: int,
    num_layers: int,
) -> list[Candidates]:
    """Return the best (query, class) pairs of the location decoder, per picture.

    Args:
        decoder: of the masks.
        location: of the G pictures.
        tokens: of the same.
        category_ids: (K_th,) contiguous ids of the classes.
        number: how many pairs, at most.
        num_layers: as `MaskDecoder.decode` takes it.
    """
    probs = at_least_float32(location.class_logits[-1]).sigmoid()
    num_classes = probs.shape[-1]
    probs, pairs = probs.flatten(1).topk(min(number, probs[0].numel()))
    # A query that is chosen with several classes comes several times, so that sizes do not depend on what was found.
    index, labels = (pairs // num_classes)[..., None], pairs % num_classes
    queries = location.queries.take_along_dim(index, dim=1)
    boxes = location.boxes[-1].take_along_dim(index, dim=1)
    masks = at_least_float32(decoder(queries, tokens.memory, tokens.sizes, num_layers)[-1].masks())
    is_thing = torch.ones_like(labels[0], dtype=torch.bool)
    return [
        Candidates(own_masks, own_probs, category_ids[own_labels], is_thing, own_boxes)
        for own_masks, own_probs, own_labels, own_boxes in zip(masks, probs, labels, boxes, strict=True)
    ]


def classified_candidates(
    decoder: ClassifyingMaskDecoder,
    location: LocationOutput,
    tokens: MaskTokens,
    category_ids: Tensor,
    num_things: int,
    num_layers: int,
) -> list[Candidates]:
    """Return all queries with the class that the mask decoder finds most probable, things first, per picture.

    Args:
        decoder: of masks and classes.
        location: of the G pictures.
        tokens: of the same.
        category_ids: (K,) contiguous ids of the classes, those of things first.
        num_things: how many of them are of things.
        num_layers: as `MaskDecoder.decode` takes it.
    """
    logits, maps = decoder(location.queries, tokens.memory, tokens.sizes, num_layers)
    masks = at_least_float32(maps[-1].masks())
    class_probs, labels = at_least_float32(logits[-1]).sigmoid().max(dim=-1)
    boxes = location.boxes[-1] if location.boxes else class_probs.new_zeros(*class_probs.shape, 0)
    candidates = []
    for picture, own_labels in enumerate(labels):
        is_thing = own_labels < num_things
        things, stuff = is_thing.nonzero()[:, 0], (~is_thing).nonzero()[:, 0]
        order = torch.cat([things, stuff])
        candidates.append(
            Candidates(
                masks=masks[picture, order],
                class_probs=class_probs[picture, order],
                category_ids=category_ids[own_labels[order]],
                is_thing=is_thing[order],
                boxes=boxes[picture, things],
            )
        )
    return candidates


def stuff_candidates(
    decoder: StuffMaskDecoder, tokens: MaskTokens, category_ids: Tensor, num_layers: int
) -> list[Candidates]:
    """Return all stuff classes, each with its own query, per picture.

    Args:
        decoder: of masks and presence.
        tokens: of the G pictures.
        category_ids: (K_st,) contiguous ids of the classes.
        num_layers: as `MaskDecoder.decode` takes it.
    """
    logits, maps = decoder(tokens.memory, tokens.sizes, num_layers)
    masks, class_probs = at_least_float32(maps[-1].masks()), at_least_float32(logits[-1]).sigmoid()
    is_thing = torch.zeros_like(category_ids, dtype=torch.bool)
    return [
        Candidates(own_masks, own_probs, category_ids, is_thing, boxes=own_probs.new_zeros(0, 4))
        for own_masks, own_probs in zip(masks, class_probs, strict=True)
    ]
