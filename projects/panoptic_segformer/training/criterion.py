"""Which prediction meets which target with which weight.

Paper, section 3.5, in the form of the released code: everything about things is weighted by the share of things
among the batch's segments, everything about stuff by the share of stuff. Queries that the mask decoder classifies are
matched once, by what comes out at the end, and all layers learn from that match.
Shape legend: B pictures, D model width, Q queries, T targets of a picture, K_th, K_st, K classes, C coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..modeling.location_decoder import LocationOutput
from ..modeling.mask_attention import AttentionMap
from ..modeling.precision import at_least_float32
from .losses import classification_loss, giou_loss
from .mask_losses import mask_dice_sums
from .matcher import Match, Matcher
from .ranks import mean_over_ranks
from .targets import PictureTargets, SegmentTargets

__all__ = ["Criterion", "LossWeights", "SegmentCounts"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; giou is 0 where locations are no boxes or have no such loss."""

    thing_class: float
    box: float
    giou: float
    mask: float
    stuff_class: float


@dataclass(frozen=True)
class SegmentCounts:
    """Normalisers of the losses: numbers of segments averaged over ranks, at least 1 (quirk Q16).

    A kind that the model does not learn counts 0, so that the other one has the whole weight.
    """

    things: float
    stuff: float

    @classmethod
    def of(cls, numbers: Sequence[int], device: torch.device, with_things: bool, with_stuff: bool) -> SegmentCounts:
        """Return the means over the whole batch, on all ranks.

        Args:
            numbers: of this rank's matched things and stuff segments.
            device: of the model.
            with_things: whether things are learned; where one set of queries learns both, all segments are things here.
            with_stuff: whether stuff is learned by its own queries.
        """
        things, stuff = mean_over_ranks(numbers, device)
        return cls(max(things, 1.0) if with_things else 0.0, max(stuff, 1.0) if with_stuff else 0.0)

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

    def __init__(self, matcher: Matcher, weights: LossWeights, mask_points: int = 0) -> None:
        """Keep what is the same for all batches; masks are compared at so many points each, 0 = as a whole."""
        self.matcher = matcher
        self.weights = weights
        self.mask_points = mask_points

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
            pictures = [target.things for target in targets]
            matches = [self.matcher.match(logits[i], boxes[i], target) for i, target in enumerate(pictures)]
            matched = list(zip(pictures, matches, strict=True))
            classes = sum(_class_loss(logits[i], *pair) for i, pair in enumerate(matched))
            losses[f"loss_class_{layer}"] = classes * (self.weights.thing_class * scale)
            losses |= self._distance_losses(layer, boxes, matched, scale)
        return losses, matches

    def _distance_losses(
        self, layer: int, boxes: Tensor, matched: Sequence[tuple[SegmentTargets, Match]], scale: float
    ) -> dict[str, Tensor]:
        """Return the L1 loss of one layer's locations (B, Q, C), and the GIoU loss if it has a weight."""
        distance, giou = [], []
        for own, (target, match) in zip(at_least_float32(boxes), matched, strict=True):
            predicted, truth = own[match.queries], target.locations[match.targets].to(own)
            distance.append(F.l1_loss(predicted, truth, reduction="sum"))
            if self.weights.giou:
                giou.append(giou_loss(predicted, truth, target.box_scale.to(own)))
        losses = {f"loss_box_{layer}": torch.stack(distance).sum() * (self.weights.box * scale)}
        if giou:
            losses[f"loss_giou_{layer}"] = torch.stack(giou).sum() * (self.weights.giou * scale)
        return losses

    def thing_mask_losses(
        self,
        maps: Sequence[list[AttentionMap]],
        output: LocationOutput,
        selected: Sequence[Match],
        targets: Sequence[PictureTargets],
        counts: SegmentCounts,
    ) -> dict[str, Tensor]:
        """Return the mask losses of things.

        Args:
            maps: per picture the thing mask decoder's maps of the T selected queries, final one last.
            output: the location decoder's output.
            selected: per picture the match that selected the queries.
            targets: per picture the truth.
            counts: the normalisers.
        """
        sums = []
        for i, target in enumerate(targets):
            queries = selected[i].queries
            match = self.matcher.match_with_masks(
                output.class_logits[-1][i][queries], output.boxes[-1][i][queries], _final_masks(maps[i]), target.things
            )
            sums.append(mask_dice_sums(maps[i], match.queries, target.things.masks[match.targets], self.mask_points))
        scale = self.weights.mask * counts.thing_share / counts.things
        return _mask_losses("thing", torch.stack(sums).sum(0) * scale)

    def stuff_losses(
        self,
        class_logits: Sequence[list[Tensor]],
        maps: Sequence[list[AttentionMap]],
        targets: Sequence[PictureTargets],
        counts: SegmentCounts,
    ) -> dict[str, Tensor]:
        """Return presence and mask losses of stuff; query c belongs to class c.

        The released code trains no presence in a batch without things because of a leaked variable (quirk Q3); here
        it is always trained.

        Args:
            class_logits: per picture the presence logits (1, K_st) of every block.
            maps: per picture the stuff mask decoder's maps, final one last.
            targets: per picture the truth.
            counts: the normalisers.
        """
        presence, dice = [], []
        for logits, own_maps, target in zip(class_logits, maps, targets, strict=True):
            truth = torch.zeros_like(logits[0][0], dtype=torch.float32)
            truth[target.stuff.classes] = 1
            presence.append(torch.stack([_presence_loss(x[0], truth) for x in logits]))
            dice.append(mask_dice_sums(own_maps, target.stuff.classes, target.stuff.masks, self.mask_points))
        scale = counts.stuff_share / counts.stuff
        presence_losses = torch.stack(presence).sum(0) * (self.weights.stuff_class * scale)
        losses = {f"loss_class_stuff_{block}": loss for block, loss in enumerate(presence_losses)}
        return losses | _mask_losses("stuff", torch.stack(dice).sum(0) * (self.weights.mask * scale))

    def classified_losses(
        self,
        kind: str,
        output: LocationOutput,
        class_logits: Sequence[list[Tensor]],
        maps: Sequence[list[AttentionMap]],
        targets: Sequence[SegmentTargets],
        counts: SegmentCounts,
    ) -> dict[str, Tensor]:
        """Return all losses of queries that the mask decoder classifies, over the number of their segments.

        Args:
            kind: what the segments are, for the names.
            output: the location decoder's output.
            class_logits: per picture the class logits (1, Q, K) of every block.
            maps: per picture the mask decoder's maps of all queries, final one last.
            targets: per picture the segments that the queries shall find.
            counts: the normalisers, of these segments as things.
        """
        boxes = output.boxes[-1] if output.boxes else [None] * len(targets)
        matches = [
            self.matcher.match_with_masks(logits[-1][0], box, _final_masks(own_maps), target)
            for logits, box, own_maps, target in zip(class_logits, boxes, maps, targets, strict=True)
        ]
        matched = list(zip(targets, matches, strict=True))
        scale = counts.thing_share / counts.things
        losses: dict[str, Tensor] = {}
        for layer, layer_boxes in enumerate(output.boxes):
            losses |= self._distance_losses(layer, layer_boxes, matched, scale)
        for block in range(len(class_logits[0])):
            total = sum(_class_loss(class_logits[i][block][0], *pair) for i, pair in enumerate(matched))
            losses[f"loss_class_{kind}_{block}"] = total * (self.weights.thing_class * scale)
        sums = [
            mask_dice_sums(own_maps, match.queries, target.masks[match.targets], self.mask_points)
            for own_maps, (target, match) in zip(maps, matched, strict=True)
        ]
        return losses | _mask_losses(kind, torch.stack(sums).sum(0) * (self.weights.mask * scale))


def _class_loss(logits: Tensor, target: SegmentTargets, match: Match) -> Tensor:
    """Return the summed classification loss of one picture's logits (Q, K): unmatched queries have no class."""
    logits = at_least_float32(logits)
    truth = torch.zeros_like(logits)
    truth[match.queries, target.classes[match.targets]] = 1
    return classification_loss(logits, truth)


def _presence_loss(logits: Tensor, truth: Tensor) -> Tensor:
    logits = at_least_float32(logits)
    return classification_loss(logits, truth.to(logits))


@torch.no_grad()
def _final_masks(maps: Sequence[AttentionMap]) -> Tensor:
    """Return the masks (N, H1, W1) that one picture's queries are matched by."""
    return maps[-1].masks()[0]


def _mask_losses(kind: str, losses: Tensor) -> dict[str, Tensor]:
    """Name the mask losses: blocks by number, the last one `final`."""
    names = [*range(len(losses) - 1), "final"]
    return {f"loss_mask_{kind}_{name}": loss for name, loss in zip(names, losses, strict=True)}
