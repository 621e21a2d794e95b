"""Dice, and the matching costs that mirror the losses; focal and GIoU losses are torchvision's.

fvcore's focal loss would round to float32. Costs and losses run in float32 at least, whatever the network runs in.
Shape legend: Q queries, T targets, K classes, N masks, C coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss

__all__ = [
    "class_costs",
    "classification_loss",
    "dice_costs",
    "dice_losses",
    "distance_costs",
    "giou_costs",
    "giou_loss",
]

# Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, table 1b.
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
# Keeps logarithms of the class cost finite; part of the released model's arithmetic, as are the next two.
LOG_EPSILON = 1e-12
DICE_LOSS_EPSILON = 1e-6
DICE_COST_EPSILON = 1e-3


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed sigmoid focal loss of logits and 0/1 targets of the same shape."""
    return sigmoid_focal_loss(logits, targets, FOCAL_ALPHA, FOCAL_GAMMA, reduction="sum")


def class_costs(logits: Tensor, classes: Tensor) -> Tensor:
    """Return what the focal loss would change if query q took target t: (Q, T).

    Args:
        logits: (Q, K).
        classes: (T,) int64 in [0, K).
    """
    probs = logits.sigmoid()[:, classes]
    negative = -(1 - probs + LOG_EPSILON).log() * (1 - FOCAL_ALPHA) * probs**FOCAL_GAMMA
    positive = -(probs + LOG_EPSILON).log() * FOCAL_ALPHA * (1 - probs) ** FOCAL_GAMMA
    return positive - negative


def distance_costs(locations: Tensor, targets: Tensor) -> Tensor:
    """Return the L1 distances of all pairs (Q, T) of locations (Q, C) and targets (T, C)."""
    return torch.cdist(locations, targets, p=1)


def giou_costs(boxes: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Return the negative GIoU in pixels of all pairs (Q, T).

    Args:
        boxes: (Q, 4) and targets: (T, 4), (cx, cy, w, h) in [0, 1].
        targets: see boxes.
        scale: (4,) pixels (W, H, W, H).
    """
    return -generalized_box_iou(_to_pixels(boxes, scale), _to_pixels(targets, scale))


def giou_loss(boxes: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Return the summed 1 - GIoU of matched (N, 4) boxes (cx, cy, w, h); scale as in `giou_costs`."""
    return generalized_box_iou_loss(_to_pixels(boxes, scale), _to_pixels(targets, scale), reduction="sum")


def dice_costs(masks: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - dice of all pairs (N, T) of masks (N, H, W) and targets (T, H, W)."""
    masks, targets = masks.flatten(1), targets.flatten(1)
    sizes = (masks.square().sum(1) + DICE_COST_EPSILON)[:, None] + targets.square().sum(1) + DICE_COST_EPSILON
    return 1 - 2 * (masks @ targets.T) / sizes


def dice_losses(masks: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - dice (N,) of masks and targets (N, H, W), sums of squares in the denominator (paper, eq. 6)."""
    masks, targets = masks.flatten(1), targets.flatten(1)
    sizes = masks.square().sum(1) + targets.square().sum(1) + 2 * DICE_LOSS_EPSILON
    return 1 - 2 * (masks * targets).sum(1) / sizes


def _to_pixels(boxes: Tensor, scale: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy") * scale.to(boxes)
