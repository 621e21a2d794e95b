"""Training examples of rectangles: what PanopticDatasetMapper would make, without files."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import BitMasks, Instances

# Label, top, left, bottom, right.
Rectangle = tuple[int, int, int, int, int]


def make_example(
    size: tuple[int, int], things: Sequence[Rectangle] = (), stuff: Sequence[Rectangle] = (), seed: int = 0
) -> dict[str, object]:
    """An example of size (height, width) with a picture of noise; what no rectangle covers is void."""
    generator = torch.Generator().manual_seed(seed)
    instances = _instances(size, things)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return {
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator),
        "instances": instances,
        "stuff": _instances(size, stuff),
    }


def _instances(size: tuple[int, int], rectangles: Sequence[Rectangle]) -> Instances:
    masks = torch.zeros(len(rectangles), *size, dtype=torch.bool)
    for mask, (_, top, left, bottom, right) in zip(masks, rectangles, strict=True):
        mask[top:bottom, left:right] = True
    labels = torch.tensor([label for label, *_ in rectangles], dtype=torch.int64)
    return Instances(size, gt_classes=labels, gt_masks=BitMasks(masks))
