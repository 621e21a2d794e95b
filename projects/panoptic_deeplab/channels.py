"""Which channel of the semantic head stands for which class.

Shape legend: K number of all classes, K_th, K_st of things and stuff.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from panoptic_segformer.data.categories import Categories

__all__ = ["Channels"]


@dataclass(frozen=True)
class Channels:
    """Channels of the classes: released models have the metadata's contiguous ids.

    Where ids of things and stuff overlap (the "separated" form), things come first.

    Attributes:
        things: K_th channels, in the order of the thing labels.
        stuff: K_st channels, in the order of the stuff labels.
        category_ids: K contiguous ids, in the order of the channels.
    """

    things: tuple[int, ...]
    stuff: tuple[int, ...]
    category_ids: tuple[int, ...]

    @classmethod
    def of(cls, categories: Categories) -> Channels:
        """Return the channels of a dataset's classes."""
        ids = categories.thing_ids + categories.stuff_ids
        order = list(range(len(ids)))
        if len(set(ids)) == len(ids):
            order.sort(key=ids.__getitem__)
        channels = {label: channel for channel, label in enumerate(order)}
        number = categories.num_things
        return cls(
            things=tuple(channels[label] for label in range(number)),
            stuff=tuple(channels[label] for label in range(number, len(ids))),
            category_ids=tuple(ids[label] for label in order),
        )

    def __len__(self) -> int:
        return len(self.category_ids)

    def by_category(self, logits: Tensor) -> Tensor:
        """Return logits (K, H, W) by contiguous id.

        In the "separated" form these are (1 + K_st, H, W): all things together, as their best, and stuff. Without
        thing classes nothing is a thing: -inf.
        """
        if self.category_ids == tuple(range(len(self))):
            return logits
        nothing = torch.full_like(logits[:1], -torch.inf)
        things = torch.cat([nothing, logits[list(self.things)]]).amax(0, keepdim=True)
        return torch.cat([things, logits[list(self.stuff)]])
