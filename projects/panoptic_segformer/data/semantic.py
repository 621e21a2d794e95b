"""Semantic truth of a training example, for models that learn stuff pixel by pixel.

Shape legend: H, W size of the picture.
"""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor

__all__ = ["ALL_THINGS", "UNLABELLED", "semantic_labels"]

# Class of the pixels of any thing: Detectron2's "separated" form has it before the stuff classes.
ALL_THINGS = 0
# Value of pixels without truth.
UNLABELLED = 255


def semantic_labels(things: Instances, stuff: Instances) -> Tensor:
    """Return the class of every pixel (H, W) int64: 0 on things, 1 + the stuff class, 255 without truth.

    Crowds have no truth here; the files that Detectron2 derives for its semantic heads have them as things.

    Args:
        things: the example's `instances`, as PanopticDatasetMapper makes them.
        stuff: likewise its `stuff`.
    """
    labels = torch.full(stuff.image_size, UNLABELLED, dtype=torch.int64)
    for mask, label in zip(stuff.gt_masks.tensor, stuff.gt_classes.tolist(), strict=True):
        labels[mask] = 1 + label
    if len(things):
        labels[things.gt_masks.tensor.any(0)] = ALL_THINGS
    return labels
