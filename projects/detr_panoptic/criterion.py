"""Matching and losses of DETR: classes and boxes behind every decoder layer, masks of matched queries behind the last.

Paper: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.1 and appendix A.2.
Shape legend: B pictures, Q queries, R rows of the class head ("no object" last), T targets of a picture, N matched
queries of a picture, h, w mask size, H, W padded size of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from panoptic_segformer.modeling.precision import at_least_float32
from panoptic_segformer.training.losses import distance_costs, giou_costs, giou_loss
from panoptic_segformer.training.matcher import Match, assign
from panoptic_segformer.training.set_losses import class_loss, mask_loss_sums, softmax_class_costs
from panoptic_segformer.training.targets import SegmentTargets

__all__ = ["Criterion", "prediction_errors"]


@dataclass(frozen=True)
class Criterion:
    """Weights of the losses, and the losses with them; the class has weight 1.

    Attributes:
        box, giou: weights of L1 distance and overlap of boxes, in matching as well.
        mask, dice: weights of the focal and the dice loss of masks.
        no_object: weight of unmatched queries in the class loss.
    """

    box: float
    giou: float
    mask: float
    dice: float
    no_object: float

    @torch.no_grad()
    def match(self, class_logits: Tensor, boxes: Tensor, targets: SegmentTargets) -> Match:
        """Match the queries of a picture; class_logits: (Q, R), boxes: (Q, 4) as the targets' locations."""
        boxes, truth = at_least_float32(boxes), at_least_float32(targets.locations)
        costs = softmax_class_costs(at_least_float32(class_logits), targets.classes)
        costs = costs + self.box * distance_costs(boxes, truth)
        return assign(costs + self.giou * giou_costs(boxes, truth, boxes.new_ones(4)))

    def class_and_box_losses(
        self,
        class_logits: Tensor,
        boxes: Tensor,
        targets: Sequence[SegmentTargets],
        matches: Sequence[Match],
        number: float,
    ) -> dict[str, Tensor]:
        """Return the losses of one decoder layer.

        Args:
            class_logits: (B, Q, R).
            boxes: (B, Q, 4), (cx, cy, w, h) in [0, 1] of each picture's own area.
            targets: per picture; their classes are rows.
            matches: per picture.
            number: of targets in the batch, what sums over them are divided by.
        """
        class_logits, boxes = at_least_float32(class_logits), at_least_float32(boxes)
        weights = class_logits.new_ones(class_logits.shape[-1])
        weights[-1] = self.no_object
        classes = [target.classes for target in targets]
        found = torch.cat([own[match.queries] for own, match in zip(boxes, matches, strict=True)])
        truth = [target.locations[match.targets] for target, match in zip(targets, matches, strict=True)]
        truth = torch.cat(truth).to(found)
        return {
            "loss_ce": class_loss(class_logits, classes, matches, weights),
            "loss_bbox": self.box * F.l1_loss(found, truth, reduction="sum") / number,
            "loss_giou": self.giou * giou_loss(found, truth, found.new_ones(4)) / number,
        }

    def mask_losses(
        self, logits: Sequence[Tensor], truth: Sequence[Tensor], size: tuple[int, int], number: float
    ) -> dict[str, Tensor]:
        """Return the losses of the masks of all pictures.

        Args:
            logits: per picture (N, h, w).
            truth: per picture (N, height, width) bool, of its own area.
            size: (H, W); padding counts as background.
            number: as in `class_and_box_losses`.
        """
        # Upsampled masks are the largest tensors of a step: they are made again in the backward pass, one picture at
        # a time.
        sums = [
            checkpoint(_mask_losses, own, masks, size, use_reentrant=False)
            for own, masks in zip(logits, truth, strict=True)
        ]
        focal, dice = torch.stack(sums).sum(0) / number
        return {"loss_mask": self.mask * focal, "loss_dice": self.dice * dice}


def _mask_losses(logits: Tensor, truth: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the focal and dice losses of one picture's masks, each summed: (2,)."""
    below, right = size[0] - truth.shape[1], size[1] - truth.shape[2]
    return mask_loss_sums(logits, F.pad(truth, (0, right, 0, below)))


@torch.no_grad()
def prediction_errors(
    class_logits: Tensor, targets: Sequence[SegmentTargets], matches: Sequence[Match]
) -> dict[str, Tensor]:
    """Return what DETR's authors log beside the losses.

    Args:
        class_logits: (B, Q, R), of the last layer.
        targets: per picture; their classes are rows.
        matches: per picture.
    Returns: `class_error`, percent of the matched queries whose most probable row is wrong, 0 without any;
        `cardinality_error`, by how many the queries that are not "no object" miss the number of targets, a mean over
        pictures.
    """
    predicted = class_logits.argmax(-1)
    numbers = predicted.new_tensor([len(target.classes) for target in targets])
    found = (predicted != class_logits.shape[-1] - 1).sum(1)
    wrong = torch.cat(
        [
            own[match.queries] != target.classes[match.targets]
            for own, target, match in zip(predicted, targets, matches, strict=True)
        ]
    )
    return {
        "class_error": 100 * wrong.sum() / max(len(wrong), 1),
        "cardinality_error": (found - numbers).abs().float().mean(),
    }
