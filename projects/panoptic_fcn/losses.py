"""Losses of Panoptic FCN: positions by a focal loss of soft targets, segments by dice of the masks of their kernels.

Paper, sections 3.2 to 3.4; the released code's normalisation, which differs from the paper's: things and stuff are
divided by their own numbers, on this process alone.
Shape legend: B pictures, h, w size of a level, P pixels of the masks, n things on a level, m stuff classes on a level,
k kernels per thing, D length of a kernel as it is predicted, E in use, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .heads import HeadOutputs, KernelGenerator
from .targets import LevelTargets, PictureTargets

__all__ = ["Criterion", "center_kernels", "dice_losses", "mean_kernels", "soft_focal_losses"]

# Keeps quotients of empty masks finite; part of the released models' arithmetic.
DICE_EPSILON = 1e-8
# Least sum of the scores that kernels of one thing are weighted by.
WEIGHT_EPSILON = 1e-6


@dataclass(frozen=True)
class Criterion:
    """Weights of the losses, and the losses.

    Attributes:
        position_weight, segment_weight: of the two kinds of losses.
        focal_alpha, focal_gamma: of the focal loss.
        num_positions: kernels per thing and level, at most.
    """

    position_weight: float
    segment_weight: float
    focal_alpha: float
    focal_gamma: float
    num_positions: int

    def losses(
        self,
        outputs: HeadOutputs,
        targets: Sequence[PictureTargets],
        thing_generator: KernelGenerator,
        stuff_generator: KernelGenerator,
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name.

        Args:
            outputs: of the network.
            targets: of each picture of the batch.
            thing_generator: brings kernels of things to the length of the features.
            stuff_generator: likewise those of stuff.
        """
        num_things = sum(len(level.things) for picture in targets for level in picture.levels)
        num_stuff = sum(len(level.stuff) for picture in targets for level in picture.levels)
        things, stuff = [], []
        for number, picture in enumerate(targets):
            own = outputs.of_picture(number)
            features = own.features.flatten(1)
            for level, logits, kernel_map in zip(picture.levels, own.thing_logits, own.kernel_maps, strict=True):
                things.append(self._thing_loss(picture, level, logits, kernel_map, features, thing_generator))
                stuff.append(_stuff_loss(picture, level, kernel_map, features, stuff_generator))
        thing_positions, stuff_positions = self._position_losses(outputs, targets)
        return {
            "loss_pos_th": self.position_weight * thing_positions / max(num_things, 1),
            "loss_pos_st": self.position_weight * stuff_positions / len(targets),
            "loss_seg_th": self.segment_weight * sum(things) / max(num_things, 1),
            "loss_seg_st": self.segment_weight * sum(stuff) / max(num_stuff, 1),
        }

    def _position_losses(self, outputs: HeadOutputs, targets: Sequence[PictureTargets]) -> tuple[Tensor, Tensor]:
        """Return the losses of things, summed over pixels, and of stuff, averaged over them; summed over all else."""
        things, stuff = [], []
        for level, (thing_logits, stuff_logits) in enumerate(
            zip(outputs.thing_logits, outputs.stuff_logits, strict=True)
        ):
            heat_maps = torch.stack([picture.levels[level].heat_map for picture in targets])
            score_maps = torch.stack([picture.levels[level].score_map for picture in targets])
            things.append(soft_focal_losses(thing_logits, heat_maps, self.focal_alpha, self.focal_gamma).sum())
            pixel_losses = soft_focal_losses(stuff_logits, score_maps, self.focal_alpha, self.focal_gamma)
            stuff.append(pixel_losses.mean((2, 3)).sum())
        return sum(things), sum(stuff)

    def _thing_loss(
        self,
        picture: PictureTargets,
        level: LevelTargets,
        logits: Tensor,
        kernel_map: Tensor,
        features: Tensor,
        generator: KernelGenerator,
    ) -> Tensor:
        """Return the summed dice of a level's things: each has the weighted mean of its kernels' losses.

        Args:
            picture: with the masks.
            level: with the regions.
            logits: (K, h, w) of things.
            kernel_map: (D, h, w).
            features: (E, P).
            generator: of things.
        """
        class_logits = logits[picture.thing_classes[level.things]]
        kernels, weights = center_kernels(kernel_map, class_logits, level.thing_regions, self.num_positions)
        probs = (generator(kernels) @ features).sigmoid()
        truth = picture.thing_masks[level.things].flatten(1)
        return (weights * dice_losses(probs, truth)).sum()


def _stuff_loss(
    picture: PictureTargets, level: LevelTargets, kernel_map: Tensor, features: Tensor, generator: KernelGenerator
) -> Tensor:
    """Return the summed dice of a level's stuff classes; kernel_map: (D, h, w), features: (E, P)."""
    probs = (generator(mean_kernels(kernel_map, level.stuff_regions)) @ features).sigmoid()
    return dice_losses(probs[:, None], picture.stuff_masks[level.stuff].flatten(1)).sum()


def center_kernels(kernel_map: Tensor, class_logits: Tensor, regions: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the kernels (n, k, D) of things where their class is most probable, and their weights (n, k).

    Weights are those probabilities over their sum; cells outside of a thing weigh nothing. Gradients reach the
    positions by them, as in the released code.

    Args:
        kernel_map: (D, h, w).
        class_logits: (n, h, w) of each thing's class.
        regions: (n, h, w) bool, the cells of each thing.
        number: k, as far as there are cells.
    """
    scores = (class_logits.sigmoid() * regions).flatten(1)
    best, cells = scores.topk(min(number, scores.shape[1]))
    weights = best / best.sum(1, keepdim=True).clamp(min=WEIGHT_EPSILON)
    return kernel_map.flatten(1).T[cells], weights


def mean_kernels(kernel_map: Tensor, regions: Tensor) -> Tensor:
    """Return the kernels (m, D) of regions (m, h, w): their sum there over the number of all cells of the level."""
    return regions.flatten(1).to(kernel_map.dtype) @ kernel_map.flatten(1).T / kernel_map[0].numel()


def soft_focal_losses(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss of each logit, with targets in [0, 1] of the same shape."""
    probs = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    agreement = probs * targets + (1 - probs) * (1 - targets)
    return entropy * (1 - agreement) ** gamma * (alpha * targets + (1 - alpha) * (1 - targets))


def dice_losses(probs: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - dice (n, k), with squares below the line, of probs (n, k, P) and the target (n, P) of each k."""
    overlap = (probs @ targets[:, :, None])[:, :, 0]
    squares = probs.square().sum(2) + targets.square().sum(1)[:, None]
    return 1 - 2 * overlap / squares.clamp(min=DICE_EPSILON)
