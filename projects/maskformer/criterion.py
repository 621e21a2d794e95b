"""Matching of queries and segments, and the losses of the matched pairs.

Paper, section 3.3 and appendix A.1. Every decoder layer has a matching of its own.
Shape legend: B pictures, Q queries, T targets of a picture, K classes, N matched pairs of a picture, H, W size of the
padded batch, h, w size of the predicted masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from panoptic_segformer.modeling.precision import at_least_float32
from panoptic_segformer.training.matcher import Match, assign
from panoptic_segformer.training.ranks import mean_over_ranks
from panoptic_segformer.training.set_losses import (
    class_loss,
    mask_dice_costs,
    mask_focal_costs,
    mask_loss_sums,
    softmax_class_costs,
)

from .predictor import Prediction

__all__ = ["Criterion", "Targets"]


@dataclass(frozen=True)
class Targets:
    """Truth of one picture.

    Attributes:
        classes: (T,) int64 in [0, K).
        masks: (T, H, W) bool, False in padding.
    """

    classes: Tensor
    masks: Tensor

    def small_masks(self, size: tuple[int, int]) -> Tensor:
        """Return the masks (T, *size) uint8, each value that of the nearest pixel."""
        return F.interpolate(self.masks[:, None].to(torch.uint8), size, mode="nearest")[:, 0]


class Criterion(nn.Module):
    """Losses of all layers; their weights are those of the matching costs as well."""

    empty_weight: Tensor

    def __init__(self, *, num_classes: int, no_object_weight: float, mask_weight: float, dice_weight: float) -> None:
        """Keep the weights.

        Args:
            num_classes: K.
            no_object_weight: of "no object" in the cross entropy, whose weight is 1 otherwise.
            mask_weight: of the focal loss of masks.
            dice_weight: of dice.
        """
        super().__init__()
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        weights = torch.ones(num_classes + 1)
        weights[-1] = no_object_weight
        self.register_buffer("empty_weight", weights)  # in checkpoints, by this name

    def forward(self, predictions: Sequence[Prediction], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return the weighted losses: `loss_ce`, `loss_mask`, `loss_dice` of the last layer, `..._0` of the first, ...

        Args:
            predictions: of the layers that learn, the last one last.
            targets: per picture.
        """
        device = self.empty_weight.device
        (num_targets,) = mean_over_ranks([sum(len(picture.classes) for picture in targets)], device)
        small_masks = [picture.small_masks(predictions[-1].mask_logits.shape[-2:]) for picture in targets]
        losses = {}
        for layer, prediction in enumerate(predictions):
            suffix = "" if layer == len(predictions) - 1 else f"_{layer}"
            own = self._layer_losses(prediction, targets, small_masks, max(num_targets, 1.0))
            losses |= {f"{name}{suffix}": loss for name, loss in own.items()}
        return losses

    def _layer_losses(
        self, prediction: Prediction, targets: Sequence[Targets], small_masks: Sequence[Tensor], num_targets: float
    ) -> dict[str, Tensor]:
        class_logits = at_least_float32(prediction.class_logits)
        matches = [
            self.match(*picture)
            for picture in zip(class_logits, prediction.mask_logits, targets, small_masks, strict=True)
        ]
        # Matched masks are upsampled to the size of their truth. Nothing of that size waits for the backward pass,
        # which computes it again, picture by picture.
        sums = [
            checkpoint(_mask_losses, logits, own.masks, match, use_reentrant=False)
            for logits, own, match in zip(prediction.mask_logits, targets, matches, strict=True)
        ]
        focal, dice = torch.stack(sums).sum(0) / num_targets
        classes = [own.classes for own in targets]
        return {
            "loss_ce": class_loss(class_logits, classes, matches, self.empty_weight.to(class_logits)),
            "loss_mask": self.mask_weight * focal,
            "loss_dice": self.dice_weight * dice,
        }

    @torch.no_grad()
    def match(self, class_logits: Tensor, mask_logits: Tensor, targets: Targets, small_masks: Tensor) -> Match:
        """Return which query stands for which target of a picture.

        Args:
            class_logits: (Q, K + 1).
            mask_logits: (Q, h, w).
            targets: the truth.
            small_masks: (T, h, w), its masks.
        """
        logits = at_least_float32(mask_logits).flatten(1)
        truth = small_masks.flatten(1).to(logits)
        costs = softmax_class_costs(class_logits, targets.classes)
        costs = costs + self.mask_weight * mask_focal_costs(logits, truth)
        return assign(costs + self.dice_weight * mask_dice_costs(logits, truth))


def _mask_losses(logits: Tensor, masks: Tensor, match: Match) -> Tensor:
    """Return the focal and dice losses of a picture, each summed over its pairs: (2,).

    Args:
        logits: (Q, h, w).
        masks: (T, H, W) bool, the truth.
        match: the N pairs.
    """
    return mask_loss_sums(logits[match.queries], masks[match.targets])
