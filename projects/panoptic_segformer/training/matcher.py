"""One-to-one assignment of queries to segments (the Hungarian method, by scipy).

Two matchings exist: by class and location for every layer of the location decoder, and by class, location and mask.
In the released form the second one sees the queries that the first one selected (paper, section 3.5, query
filtering); where the mask decoder classifies the queries, it sees all of them and is the only one.
Shape legend: Q queries, T targets, K classes, C coordinates of a location.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..modeling.precision import at_least_float32
from .losses import class_costs, dice_costs, distance_costs, giou_costs
from .targets import SegmentTargets, resize_masks

__all__ = ["Match", "Matcher", "assign"]


@dataclass(frozen=True)
class Match:
    """Pairs of queries and targets, in increasing order of the query: two (min(Q, T),) int64 tensors."""

    queries: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Matcher:
    """Weights of the costs, and the matching by them.

    Attributes:
        class_cost, box_cost, giou_cost: weights of the first matching; giou_cost is 0 where locations are no boxes
            or have no such loss.
        mask_stage_class_cost: weight of the class in the second one, at the value that a fresh run of the released
            code has (quirk Q2: building two models there doubles it again).
        mask_cost: weight of dice in the second one.
    """

    class_cost: float
    box_cost: float
    giou_cost: float
    mask_stage_class_cost: float
    mask_cost: float

    @torch.no_grad()
    def match(self, class_logits: Tensor, boxes: Tensor, targets: SegmentTargets) -> Match:
        """Match by class and location; class_logits: (Q, K), boxes: (Q, C) in [0, 1] as the targets' locations."""
        return assign(self._location_costs(class_logits, boxes, targets, self.class_cost))

    @torch.no_grad()
    def match_with_masks(
        self, class_logits: Tensor, boxes: Tensor | None, masks: Tensor, targets: SegmentTargets
    ) -> Match:
        """Match by class, location and mask.

        Args:
            class_logits: (Q, K).
            boxes: (Q, C) as in `match`; None leaves the location out.
            masks: (Q, H1, W1).
            targets: the segments to be found.
        """
        costs = self._location_costs(class_logits, boxes, targets, self.mask_stage_class_cost)
        masks = at_least_float32(masks)
        truth = resize_masks(targets.masks, masks.shape[-2:], masks.dtype)
        return assign(costs + self.mask_cost * dice_costs(masks, truth))

    def _location_costs(
        self, class_logits: Tensor, boxes: Tensor | None, targets: SegmentTargets, class_cost: float
    ) -> Tensor:
        costs = class_cost * class_costs(at_least_float32(class_logits), targets.classes)
        if boxes is None:
            return costs
        boxes = at_least_float32(boxes)
        truth = targets.locations.to(boxes)
        costs = costs + self.box_cost * distance_costs(boxes, truth)
        if self.giou_cost:
            costs = costs + self.giou_cost * giou_costs(boxes, truth, targets.box_scale)
        return costs


def assign(costs: Tensor) -> Match:
    """Return the cheapest assignment of a (Q, T) cost matrix.

    Raises: FloatingPointError: if a cost is not finite.
    """
    device, costs = costs.device, costs.cpu()
    if not bool(costs.isfinite().all()):
        raise FloatingPointError(
            f"{int((~costs.isfinite()).sum())} of {costs.numel()} matching costs are not finite: the network's output "
            "or the truth of these pictures is not"
        )
    rows, columns = linear_sum_assignment(costs.numpy())
    return Match(torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device))
