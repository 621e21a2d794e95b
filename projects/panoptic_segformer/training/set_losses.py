"""Losses and matching costs of DETR and MaskFormer: softmax over classes with "no object", masks by focal and dice.

Panoptic SegFormer's are in losses.py: sigmoid classes, and dice with squares in the denominator.
References: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.1 and appendix A.2;
Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021, section 3.3.
Shape legend: B pictures, Q queries, T targets, K classes, N matched masks, P pixels, H, W size of the truth, h, w size
of predicted masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ..modeling.precision import at_least_float32
from .losses import FOCAL_ALPHA, FOCAL_GAMMA
from .matcher import Match

__all__ = [
    "class_loss",
    "mask_dice_costs",
    "mask_dice_losses",
    "mask_focal_costs",
    "mask_focal_losses",
    "mask_loss_sums",
    "softmax_class_costs",
]


def softmax_class_costs(logits: Tensor, classes: Tensor) -> Tensor:
    """Return minus the probability of target t's class for query q: (Q, T).

    Args:
        logits: (Q, K + 1), "no object" last.
        classes: (T,) int64 in [0, K).
    """
    return -logits.softmax(-1)[:, classes]


def class_loss(logits: Tensor, classes: Sequence[Tensor], matches: Sequence[Match], class_weights: Tensor) -> Tensor:
    """Return the cross entropy of all queries, weighted by class; unmatched queries are "no object".

    Args:
        logits: (B, Q, K + 1).
        classes: per picture (T,) int64 in [0, K).
        matches: per picture which query has which target.
        class_weights: (K + 1,), of "no object" last.
    """
    labels = logits.new_full(logits.shape[:2], logits.shape[-1] - 1, dtype=torch.int64)
    for own, target, match in zip(labels, classes, matches, strict=True):
        own[match.queries] = target[match.targets]
    return F.cross_entropy(logits.transpose(1, 2), labels, class_weights)


def mask_focal_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss (N,), a mean over pixels, of mask logits and 0/1 targets, both (N, P)."""
    return sigmoid_focal_loss(logits, targets, FOCAL_ALPHA, FOCAL_GAMMA).mean(1)


def mask_dice_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - dice (N,) of mask logits and targets, both (N, P); one is added above and below the line."""
    probs = logits.sigmoid()
    return 1 - (2 * (probs * targets).sum(1) + 1) / (probs.sum(1) + targets.sum(1) + 1)


def mask_loss_sums(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the focal and the dice losses of matched masks, each summed: (2,).

    Args:
        logits: (N, h, w), which are upsampled to the size of the truth.
        truth: (N, H, W) bool.
    """
    upsampled = F.interpolate(at_least_float32(logits)[:, None], truth.shape[-2:], mode="bilinear").flatten(1)
    targets = truth.flatten(1).to(upsampled)
    return torch.stack([mask_focal_losses(upsampled, targets).sum(), mask_dice_losses(upsampled, targets).sum()])


def mask_focal_costs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `mask_focal_losses` of all pairs (Q, T) of logits (Q, P) and targets (T, P)."""
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    inside = sigmoid_focal_loss(logits, ones, FOCAL_ALPHA, FOCAL_GAMMA)
    outside = sigmoid_focal_loss(logits, zeros, FOCAL_ALPHA, FOCAL_GAMMA)
    # A pixel of a target costs `inside`, any other `outside`.
    return ((inside - outside) @ targets.T + outside.sum(1, keepdim=True)) / logits.shape[1]


def mask_dice_costs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `mask_dice_losses` of all pairs (Q, T) of logits (Q, P) and targets (T, P)."""
    probs = logits.sigmoid()
    return 1 - (2 * (probs @ targets.T) + 1) / (probs.sum(1)[:, None] + targets.sum(1) + 1)
