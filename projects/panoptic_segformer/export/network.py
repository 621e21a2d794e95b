"""What is exported: a picture in, candidates for merging out.

Merging stays outside: it works at the size of the result, which a caller chooses, and its steps depend on what is in
the picture. Everything in front of it is one graph whose only free sizes are those of the picture.
Shape legend: H, W size of the picture, N candidates (things first), T of them things, h, w mask size, C coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..modeling.levels import FeatureLevels

if TYPE_CHECKING:
    from ..meta_arch import PanopticSegFormer

__all__ = ["INPUT_NAME", "OUTPUT_NAMES", "ExportableNetwork", "Outputs"]

INPUT_NAME = "image"
# The fields of Candidates, in their order.
OUTPUT_NAMES = ("masks", "class_probs", "category_ids", "is_thing", "boxes")


# Tensors by these names.
Outputs = dict[str, Tensor]


class ExportableNetwork(nn.Module):
    """The model in front of merging, for one picture, with tensors alone as input and output."""

    def __init__(self, model: PanopticSegFormer) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the candidates of a picture.

        Args:
            image: (3, H, W) uint8 in the channel order of INPUT.FORMAT.
        Returns: masks (N, h, w), class_probs (N,), category_ids (N,) int64, is_thing (N,) bool, boxes (T, C); see
            `Candidates`.
        """
        model = self.model
        maps = model.same_size_levels(torch.stack(model.preprocess([{"image": image}])))
        levels = FeatureLevels(maps, [[(level.shape[-2], level.shape[-1]) for level in maps]])
        memory = model.encoder(levels)
        location = None if model.location_decoder is None else model.location_decoder(memory, levels)
        candidates = model.decode_candidates(memory, levels, location, [0])[0]
        return tuple(getattr(candidates, name) for name in OUTPUT_NAMES)

    def outputs(self, image: Tensor) -> Outputs:
        """Return what `forward` does, by the outputs' names."""
        return dict(zip(OUTPUT_NAMES, self(image), strict=True))
