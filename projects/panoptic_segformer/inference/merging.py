"""Mask-wise merging: the masks of all queries to one segment map.

Paper, section 3.6, algorithm 1, as the released code computes it. Masks are unbounded ReLU values. They stay as small
as the network makes them: nothing of the result's size is held per candidate.
Shape legend: N candidates, h, w mask size, H0, W0 size of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..ops import mask_statistics, paint_masks

__all__ = ["MergeOptions", "merge_masks", "score_candidates", "upper_score_bounds"]


@dataclass(frozen=True)
class MergeOptions:
    """Thresholds and exponents of merging, see MODEL.PANOPTIC_SEGFORMER.MERGING and MODEL.MASK_WISE_MERGING."""

    mask_threshold: float
    score_threshold: float
    thing_overlap_threshold: float
    stuff_overlap_threshold: float
    class_exponent: float
    mask_exponent: float

    @classmethod
    def from_config(cls, node: CfgNode) -> MergeOptions:
        """Return the options of a config's node."""
        return cls(
            mask_threshold=node.MASK_THRESHOLD,
            score_threshold=node.SCORE_THRESHOLD,
            thing_overlap_threshold=node.THING_OVERLAP_THRESHOLD,
            stuff_overlap_threshold=node.STUFF_OVERLAP_THRESHOLD,
            class_exponent=node.CLASS_EXPONENT,
            mask_exponent=node.MASK_EXPONENT,
        )


def upper_score_bounds(class_probs: Tensor, masks: Tensor, options: MergeOptions) -> Tensor:
    """Return what the score (N,) of candidates can't exceed, from their low-resolution masks (N, h, w).

    The score's mask factor is a mean over pixels above the threshold, and bilinear interpolation never exceeds the
    largest value; a mask that stays below the threshold scores 0.
    """
    peaks = masks.flatten(1).amax(1) * (1 + 1e-5)  # interpolation may round up
    bounds = class_probs**options.class_exponent * peaks**options.mask_exponent
    return torch.where(peaks > options.mask_threshold, bounds, 0.0)


def score_candidates(class_probs: Tensor, masks: Tensor, size: tuple[int, int], options: MergeOptions) -> Tensor:
    """Return the confidence (N,) of candidates: class probability times mean mask value inside, with the exponents.

    Args:
        class_probs: (N,) in [0, 1].
        masks: (N, h, w).
        size: (H0, W0), where masks are compared with the threshold.
        options: threshold and exponents.
    Returns: (N,); masks are unbounded, so it may exceed 1. An empty mask scores 0, whatever the exponent.
    """
    areas, sums = mask_statistics(masks, size, options.mask_threshold)
    means = sums / (areas + 1)  # one pixel more than there are, as the released code has it
    scores = class_probs**options.class_exponent * means**options.mask_exponent
    return torch.where(areas > 0, scores, 0.0)


def merge_masks(
    masks: Tensor, scores: Tensor, is_thing: Tensor, size: tuple[int, int], options: MergeOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Paint the candidates, best first, on what is still free.

    A candidate is dropped if its score is too low, its mask empty, or too large a share of it taken already.

    Args:
        masks: (N, h, w).
        scores: (N,) confidence.
        is_thing: (N,) bool.
        size: (H0, W0).
        options: the thresholds.
    Returns: segment ids (H0, W0) int32, 0 = void; the kept candidates (n,) int64 in painting order, the k-th of
        them has id k + 1; their visible areas (n,) int64.
    """
    order = scores.argsort(descending=True)
    order = order[scores[order] >= options.score_threshold]
    limits = torch.where(is_thing[order], options.thing_overlap_threshold, options.stuff_overlap_threshold)
    segment_ids, kept, areas = paint_masks(masks, order, limits, size, options.mask_threshold)
    kept = kept.nonzero()[:, 0]
    return segment_ids, order[kept], areas[kept]
