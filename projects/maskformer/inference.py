"""From the classes and masks of queries to the results of one picture.

Paper, section 3.4 (mask-classification inference), in the authors' panoptic form. Segments and instances have a score
here, which theirs lack: class probability times mean mask value inside, as in Mask2Former.
Shape legend: Q queries, n kept queries, K classes, H0, W0 size of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from panoptic_segformer.inference import outputs
from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.inference.merging import MergeOptions, score_candidates
from panoptic_segformer.inference.outputs import Outputs, number_segments, panoptic_result
from panoptic_segformer.modeling.precision import at_least_float32

from .classes import JointClasses

__all__ = [
    "InferenceOptions",
    "instance_result",
    "kept_queries",
    "mask_wise_result",
    "pixel_wise_result",
    "resize_masks",
    "semantic_result",
]

# A pixel is inside a mask from this value on.
INSIDE = 0.5

PanopticResult = tuple[Tensor, list[dict[str, object]]]


@dataclass(frozen=True)
class InferenceOptions:
    """What is computed outside training.

    Attributes:
        object_mask_threshold: least class probability of a kept query.
        overlap_threshold: least share of its mask that a segment gets.
        merging: mask-wise merging in the place of the authors'; None = theirs.
        outputs: which results are computed.
    """

    object_mask_threshold: float
    overlap_threshold: float
    merging: MergeOptions | None
    outputs: Outputs


def resize_masks(
    logits: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Return masks of a picture in [0, 1] at the size of the result: (Q, H0, W0).

    Args:
        logits: (Q, h, w), of the padded batch.
        padded_size: of the batch.
        image_size: of the picture in it.
        size: (H0, W0).
    """
    logits = F.interpolate(at_least_float32(logits)[:, None], padded_size, mode="bilinear")
    logits = logits[..., : image_size[0], : image_size[1]]
    if tuple(logits.shape[-2:]) != tuple(size):
        logits = F.interpolate(logits, size, mode="bilinear")
    return logits[:, 0].sigmoid()


def semantic_result(class_probs: Tensor, masks: Tensor, classes: JointClasses) -> Tensor:
    """Return the evidence for every class, summed over all queries: (channels, H0, W0).

    Args:
        class_probs: (Q, K + 1).
        masks: (Q, H0, W0).
        classes: what class k is, and its channel.
    """
    evidence = class_probs.new_zeros(len(class_probs), classes.num_channels)
    evidence.index_add_(1, classes.channels, class_probs[:, :-1])
    return torch.einsum("qc,qhw->chw", evidence, masks)


def kept_queries(class_probs: Tensor, options: InferenceOptions) -> Tensor:
    """Return the queries (n,) that are an object with enough certainty; class_probs: (Q, K + 1)."""
    best, labels = class_probs.max(-1)
    is_object = labels < class_probs.shape[-1] - 1
    return (is_object & (best > options.object_mask_threshold)).nonzero()[:, 0]


def pixel_wise_result(
    class_probs: Tensor, masks: Tensor, classes: JointClasses, options: InferenceOptions
) -> PanopticResult:
    """Return segment ids (H0, W0) int32 and one record per segment: every pixel goes to the query that claims it most.

    Args:
        class_probs: (Q, K + 1).
        masks: (Q, H0, W0).
        classes: what class k is.
        options: the thresholds.
    """
    kept = kept_queries(class_probs, options)
    if not len(kept):
        return torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device), []
    (best, labels), masks = class_probs[kept].max(-1), masks[kept]
    owner = (best[:, None, None] * masks).argmax(0)
    areas = owner.flatten().bincount(minlength=len(kept))
    mask_areas = (masks >= INSIDE).sum((1, 2))
    survives = (areas > 0) & (mask_areas > 0) & (areas / mask_areas.double() >= options.overlap_threshold)
    visible = survives.nonzero()[:, 0]
    labels = labels[visible]
    numbers, segments_info = number_segments(
        classes.category_ids[labels], classes.is_thing[labels], scores_of(best, masks)[visible], areas[visible]
    )
    ids = areas.new_zeros(len(kept), dtype=torch.int32)
    ids[visible] = ids.new_tensor(numbers)
    return ids[owner], segments_info


def mask_wise_result(
    class_probs: Tensor, masks: Tensor, classes: JointClasses, options: MergeOptions
) -> PanopticResult:
    """Return what Panoptic SegFormer's merging makes of all queries; arguments as `pixel_wise_result`'s."""
    candidates = _candidates(class_probs, masks, classes)
    size = (masks.shape[-2], masks.shape[-1])
    scores = score_candidates(candidates.class_probs, candidates.masks, size, options)
    return panoptic_result(candidates, scores, size, options)


def instance_result(class_probs: Tensor, masks: Tensor, classes: JointClasses) -> Instances:
    """Return the queries whose best class is a thing, best first, without those of empty masks.

    Masks are those before overlaps are resolved. Arguments as `pixel_wise_result`'s.
    """
    candidates = _candidates(class_probs, masks, classes)
    scores = scores_of(candidates.class_probs, candidates.masks)
    size = (masks.shape[-2], masks.shape[-1])
    return outputs.instance_result(candidates.select(scores > 0), scores[scores > 0], size, INSIDE)


def _candidates(class_probs: Tensor, masks: Tensor, classes: JointClasses) -> Candidates:
    """Return all queries with the best of their classes, "no object" aside."""
    best, labels = class_probs[:, :-1].max(-1)
    is_thing = classes.is_thing[labels]
    order = torch.cat([is_thing.nonzero()[:, 0], (~is_thing).nonzero()[:, 0]])
    no_boxes = best.new_zeros(int(is_thing.sum()), 0)
    return Candidates(masks[order], best[order], classes.category_ids[labels[order]], is_thing[order], no_boxes)


def scores_of(class_probs: Tensor, masks: Tensor) -> Tensor:
    """Return class probability (n,) times mean value inside the mask (n, H0, W0): (n,), 0 for an empty mask."""
    inside = masks >= INSIDE
    return class_probs * (masks * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
