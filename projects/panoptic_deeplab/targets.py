"""What Panoptic-DeepLab learns, from our training examples: classes, centres and offsets of every pixel.

The targets are made by Detectron2's generator (Panoptic-DeepLab, section 3.2), which reads maps of segment ids.
Shape legend: B pictures, h, w size of one, H, W of the padded batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from .channels import Channels

__all__ = ["TargetMaker"]


class TargetMaker:
    """Makes the truth of a batch for both heads."""

    def __init__(self, channels: Channels, generator: PanopticDeepLabTargetGenerator) -> None:
        """Keep the parts.

        Args:
            channels: of the semantic head.
            generator: Detectron2's.
        """
        self.channels = channels
        self.generator = generator

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: Channels) -> TargetMaker:
        """Return what a config stands for."""
        generator = PanopticDeepLabTargetGenerator(
            ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            thing_ids=channels.things,
            sigma=cfg.INPUT.GAUSSIAN_SIGMA,
            ignore_stuff_in_offset=cfg.INPUT.IGNORE_STUFF_IN_OFFSET,
            small_instance_area=cfg.INPUT.SMALL_INSTANCE_AREA,
            small_instance_weight=cfg.INPUT.SMALL_INSTANCE_WEIGHT,
            ignore_crowd_in_semantic=cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC,
        )
        return cls(channels, generator)

    def __call__(self, examples: Sequence[dict[str, Any]], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the targets of a batch of examples with `instances` and `stuff`, padded to (H, W).

        Void, crowd and padding teach nothing: examples hold no crowds, so that INPUT.IGNORE_CROWD_IN_SEMANTIC, which
        is False in Detectron2's recipe, has no effect.

        Returns: `sem_seg` (B, H, W) int64 channels; `center` (B, 1, H, W) in [0, 1]; `offset` (B, 2, H, W) pixels, of
            rows and of columns; `sem_seg_weights` (B, H, W), `center_weights` and `offset_weights` (B, 1, H, W).
        """
        targets = [self.picture_targets(example["instances"], example["stuff"]) for example in examples]
        void = {"sem_seg": self.generator.ignore_label}
        return {key: _padded((own[key] for own in targets), size, void.get(key, 0)) for key in targets[0]}

    def picture_targets(self, things: Instances, stuff: Instances) -> dict[str, Tensor]:
        """Return the targets of one picture, as `__call__` does for a batch, at (h, w)."""
        ids = torch.zeros(things.image_size, dtype=torch.int32)
        segments: list[dict[str, int]] = []
        for channels, instances in ((self.channels.stuff, stuff), (self.channels.things, things)):
            for label, mask in zip(instances.gt_classes.tolist(), instances.gt_masks.tensor, strict=True):
                number = len(segments) + 1
                ids[mask] = number
                segments.append({"id": number, "category_id": channels[label], "iscrowd": 0})
        targets = self.generator(ids.numpy(), segments)
        del targets["center_points"]
        targets["center"] = targets["center"][None]
        return targets


def _padded(pictures: Iterable[Tensor], size: tuple[int, int], value: float) -> Tensor:
    """Return tensors (..., h, w) as one (B, ..., H, W), filled up at the bottom and on the right."""
    height, width = size
    return torch.stack(
        [F.pad(own, (0, width - own.shape[-1], 0, height - own.shape[-2]), value=value) for own in pictures]
    )
