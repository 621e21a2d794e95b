"""Which prediction meets which target with which weight.

Paper, section 3.5, in the form of the released code: everything about things is weighted by the share of things
among the batch's segments, everything about stuff by the share of stuff.
Shape legend: B pictures, D model width, Q thing queries, T, U thing/stuff targets of a picture, K_th, K_st classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F

from ..modeling.location_decoder import LocationOutput
from ..modeling.precision import at_least_float32
from .losses import classification_loss, dice_losses, giou_loss
from .matcher import Match, Matcher
from .targets import PictureTargets, resize_masks

__all__ = ["Criterion", "LossWeights", "SegmentCounts"]

# Masks are compared at twice their own resolution, a quarter of the picture's (released code).
MASK_TARGET_SCALE = 2


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms."""

    thing_class: float
    box: float
    giou: float
    mask: float
    stuff_class: float


@dataclass(frozen=True)
class SegmentCounts:
    """Normalisers of the losses: numbers of segments averaged over ranks, at least 1 (quirk Q16)."""

    things: float
    stuff: float

    @classmethod
    def of(cls, targets: Sequence[PictureTargets], num_queries: int) -> SegmentCounts:
        """Count the segments of the batch on all ranks; a picture has at most `num_queries` matched things."""
        things = sum(min(len(target.thing_classes), num_queries) for target in targets)
        stuff = sum(len(target.stuff_classes) for target in targets)
        if comm.get_world_size() > 1:
            counts = torch.tensor([things, stuff], dtype=torch.float32, device=targets[0].box_scale.device)
            torch.distributed.all_reduce(counts)
            things, stuff = (counts / comm.get_world_size()).tolist()
        return cls(max(things, 1.0), max(stuff, 1.0))

    @property
    def thing_share(self) -> float:
        """Share of things among all segments."""
        return self.things / (self.things + self.stuff)

    @property
    def stuff_share(self) -> float:
        """Share of stuff among all segments."""
        return self.stuff / (self.things + self.stuff)


class Criterion:
    """Losses of the three decoders, by name and layer."""

    def __init__(self, matcher: Matcher, weights: LossWeights) -> None:
        self.matcher = matcher
        self.weights = weights

    def location_losses(
        self, output: LocationOutput, targets: Sequence[PictureTargets], counts: SegmentCounts
    ) -> tuple[dict[str, Tensor], list[Match]]:
        """Return the losses of all location-decoder layers and the last layer's match of every picture.

        The last layer's matched queries are the ones whose masks are decoded. The released code means to select
        up to three queries per thing there, but always stops after one (quirk Q1).
        """
        losses: dict[str, Tensor] = {}
        matches: list[Match] = []
        scale = counts.thing_share / counts.things
        for layer, (logits, boxes) in enumerate(zip(output.class_logits, output.boxes, strict=True)):
            matches = [self.matcher.match(logits[i], boxes[i], target) for i, target in enumerate(targets)]
            sums = torch.stack(
                [
                    self._location_sums(logits[i], boxes[i], target, match)
                    for i, (target, match) in enumerate(zip(targets, matches, strict=True))
                ]
            ).sum(0)
            weights = {"class": self.weights.thing_class, "box": self.weights.box, "giou": self.weights.giou}
            for (term, weight), total in zip(weights.items(), sums, strict=True):
                losses[f"loss_{term}_{layer}"] = total * (weight * scale)
        return losses, matches

    def _location_sums(self, logits: Tensor, boxes: Tensor, target: PictureTargets, match: Match) -> Tensor:
        """Return the summed class, L1 and GIoU losses (3,) of one picture; logits (Q, K_th), boxes (Q, 4)."""
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        truth = torch.zeros_like(logits)
        truth[match.queries, target.thing_classes[match.targets]] = 1
        matched, true_boxes = boxes[match.queries], target.thing_boxes[match.targets].to(boxes)
        return torch.stack(
            [
                classification_loss(logits, truth),
                F.l1_loss(matched, true_boxes, reduction="sum"),
                giou_loss(matched, true_boxes, target.box_scale.to(boxes)),
            ]
        )

    def thing_mask_losses(
        self,
        masks: Sequence[list[Tensor]],
        output: LocationOutput,
        selected: Sequence[Match],
        targets: Sequence[PictureTargets],
        counts: SegmentCounts,
    ) -> dict[str, Tensor]:
        """Return the mask losses of things.

        Args:
            masks: per picture the thing mask decoder's masks (1, T, H1, W1) of the selected queries, final one last.
            output: the location decoder's output.
            selected: per picture the match that selected the queries.
            targets: per picture the truth.
            counts: the normalisers.
        """
        sums = []
        for i, target in enumerate(targets):
            queries = selected[i].queries
            match = self.matcher.match_with_masks(
                output.class_logits[-1][i][queries], output.boxes[-1][i][queries], masks[i][-1][0], target
            )
            chosen = [mask[0][match.queries] for mask in masks[i]]
            sums.append(_dice_sums(chosen, target.thing_masks[match.targets]))
        scale = self.weights.mask * counts.thing_share / counts.things
        return _mask_losses("thing", torch.stack(sums).sum(0) * scale)

    def stuff_losses(
        self,
        class_logits: Sequence[list[Tensor]],
        masks: Sequence[list[Tensor]],
        targets: Sequence[PictureTargets],
        counts: SegmentCounts,
    ) -> dict[str, Tensor]:
        """Return presence and mask losses of stuff; query c belongs to class c.

        The released code trains no presence in a batch without things because of a leaked variable (quirk Q3); here
        it is always trained.

        Args:
            class_logits: per picture the presence logits (1, K_st) of every block.
            masks: per picture the masks (1, K_st, H1, W1), final one last.
            targets: per picture the truth.
            counts: the normalisers.
        """
        presence, dice = [], []
        for logits, mask, target in zip(class_logits, masks, targets, strict=True):
            truth = torch.zeros_like(logits[0][0], dtype=torch.float32)
            truth[target.stuff_classes] = 1
            presence.append(torch.stack([_presence_loss(x[0], truth) for x in logits]))
            dice.append(_dice_sums([m[0][target.stuff_classes] for m in mask], target.stuff_masks))
        scale = counts.stuff_share / counts.stuff
        presence_losses = torch.stack(presence).sum(0) * (self.weights.stuff_class * scale)
        losses = {f"loss_class_stuff_{block}": loss for block, loss in enumerate(presence_losses)}
        return losses | _mask_losses("stuff", torch.stack(dice).sum(0) * (self.weights.mask * scale))


def _presence_loss(logits: Tensor, truth: Tensor) -> Tensor:
    logits = at_least_float32(logits)
    return classification_loss(logits, truth.to(logits))


def _dice_sums(masks: list[Tensor], targets: Tensor) -> Tensor:
    """Return the summed dice losses, one per decoder output, of masks (N, H1, W1) and targets (N, H, W)."""
    size = tuple(MASK_TARGET_SCALE * side for side in masks[0].shape[-2:])
    masks = [at_least_float32(mask) for mask in masks]
    truth = resize_masks(targets, size, masks[0].dtype)
    sums = []
    for mask in masks:
        if len(mask):
            mask = F.interpolate(mask[None], size, mode="bilinear", align_corners=False)[0]
            sums.append(dice_losses(mask, truth).sum())
        else:
            sums.append(mask.sum())  # zero, but all ranks keep the same graph
    return torch.stack(sums)


def _mask_losses(kind: str, losses: Tensor) -> dict[str, Tensor]:
    """Name the mask losses: blocks by number, the last one `final`."""
    names = [*range(len(losses) - 1), "final"]
    return {f"loss_mask_{kind}_{name}": loss for name, loss in zip(names, losses, strict=True)}
