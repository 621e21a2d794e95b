"""The order of the classes that queries are classified into.

Things and stuff share one classifier. Its rows are in the order of the metadata's contiguous ids, as in released
checkpoints: COCO has all things first, ADE20K has things and stuff mixed.
Shape legend: K classes, T targets, Q queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from panoptic_segformer.data.categories import Categories

__all__ = ["JointClasses"]


class JointClasses(nn.Module):
    """What class k is, as tensors that move with the model and belong to no checkpoint.

    Attributes:
        category_ids: (K,) contiguous ids of the metadata.
        is_thing: (K,) bool.
        thing_classes: (K_th,) the class of each thing label of a training example; stuff_classes: likewise.
        channels: (K,) where each class stands in a semantic result.
        num_channels: how many of those there are.
    """

    category_ids: Tensor
    is_thing: Tensor
    thing_classes: Tensor
    stuff_classes: Tensor
    channels: Tensor

    def __init__(self, categories: Categories) -> None:
        """Order the classes of a dataset.

        In Detectron2's "separated" form ids of things and stuff overlap: stuff comes after things then, and a
        semantic result has one channel, 0, for all things.
        """
        super().__init__()
        things = [(id_, True) for id_ in categories.thing_ids]
        stuff = [(id_, False) for id_ in categories.stuff_ids]
        is_separated = not set(categories.thing_ids).isdisjoint(categories.stuff_ids)
        ordered = things + stuff if is_separated else sorted(things + stuff)
        channels = [0 if is_separated and is_thing else id_ for id_, is_thing in ordered]
        self.num_channels = max(channels) + 1
        for name, values, dtype in (
            ("category_ids", [id_ for id_, _ in ordered], torch.int64),
            ("is_thing", [is_thing for _, is_thing in ordered], torch.bool),
            ("thing_classes", [ordered.index(thing) for thing in things], torch.int64),
            ("stuff_classes", [ordered.index(own) for own in stuff], torch.int64),
            ("channels", channels, torch.int64),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def __len__(self) -> int:
        """Return the number of classes K."""
        return len(self.category_ids)

    def of_example(self, things: Tensor, stuff: Tensor) -> Tensor:
        """Return the classes (T,) of thing labels and stuff labels, those of things first."""
        return torch.cat([self.thing_classes[things], self.stuff_classes[stuff]])
