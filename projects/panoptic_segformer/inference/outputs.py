"""Results of one picture in Detectron2's formats: panoptic, instances, semantic.

Only what the asked-for results need is computed, and candidates that can't survive merging are dropped while their
masks are small.
Shape legend: N candidates (things first), h, w mask size, H0, W0 size of the result, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, clip_boxes_to_image

from ..data.categories import Categories
from ..ops import masks_above
from .candidates import Candidates
from .merging import MergeOptions, merge_masks, score_candidates, upper_score_bounds

__all__ = [
    "InferenceOptions",
    "Outputs",
    "instance_result",
    "merged_candidates",
    "number_segments",
    "panoptic_result",
    "picture_results",
    "semantic_result",
]


@dataclass(frozen=True)
class Outputs:
    """Which results are computed: `panoptic_seg`, `instances`, `sem_seg`."""

    panoptic: bool
    instances: bool
    semantic: bool


@dataclass(frozen=True)
class InferenceOptions:
    """What is computed from the queries outside training.

    Attributes:
        num_thing_candidates: (query, class) pairs of things that enter merging, best first.
        num_mask_layers: layers of the mask decoders that run, 0 = all.
        merging: thresholds of merging.
        outputs: which results are computed.
    """

    num_thing_candidates: int
    num_mask_layers: int
    merging: MergeOptions
    outputs: Outputs


def picture_results(
    candidates: Candidates,
    size: tuple[int, int],
    categories: Categories,
    options: MergeOptions,
    outputs: Outputs,
) -> dict[str, object]:
    """Return the results of one picture of size (H0, W0).

    Args:
        candidates: what may become a segment.
        size: height and width of the results.
        categories: the dataset's classes.
        options: thresholds of merging.
        outputs: which results to compute.
    Returns: dict with the keys `panoptic_seg`, `instances` and `sem_seg` as asked for.
    """
    results: dict[str, object] = {}
    if outputs.semantic:
        results["sem_seg"] = semantic_result(candidates, size, categories)
    bounds = upper_score_bounds(candidates.class_probs, candidates.masks, options)
    may_survive = bounds >= options.score_threshold
    needed = may_survive if outputs.panoptic else torch.zeros_like(may_survive)
    if outputs.instances:
        needed = needed | candidates.is_thing  # instance AP counts low scores as well
    candidates = candidates.select(needed)
    scores = score_candidates(candidates.class_probs, candidates.masks, size, options)
    if outputs.panoptic:
        results["panoptic_seg"] = panoptic_result(candidates, scores, size, options)
    if outputs.instances:
        results["instances"] = instance_result(candidates, scores, size, options.mask_threshold)
    return results


def panoptic_result(
    candidates: Candidates, scores: Tensor, size: tuple[int, int], options: MergeOptions
) -> tuple[Tensor, list[dict[str, object]]]:
    """Return segment ids (H0, W0) int32 and one record per segment, best first.

    Candidates of one stuff class become one segment: queries of a joint set may share a class.
    """
    segment_ids, segments_info, *_ = merged_candidates(candidates, scores, size, options)
    return segment_ids, segments_info


def merged_candidates(
    candidates: Candidates, scores: Tensor, size: tuple[int, int], options: MergeOptions
) -> tuple[Tensor, list[dict[str, object]], Tensor, list[int]]:
    """Return what `panoptic_result` does, and the candidates (n,) that were kept with the segment id of each."""
    segment_ids, kept, areas = merge_masks(candidates.masks, scores, candidates.is_thing, size, options)
    numbers, segments_info = number_segments(
        candidates.category_ids[kept], candidates.is_thing[kept], scores[kept], areas
    )
    if len(segments_info) < len(kept):
        segment_ids = segment_ids.new_tensor([0, *numbers])[segment_ids]
    return segment_ids, segments_info, kept, numbers


def number_segments(
    category_ids: Tensor, is_thing: Tensor, scores: Tensor, areas: Tensor
) -> tuple[list[int], list[dict[str, object]]]:
    """Return the segment of each of some visible masks, counted from 1, and one record per segment, in their order.

    Masks of one stuff class make one segment, with the area of all and the score of the first.

    Args:
        category_ids: (N,) contiguous ids.
        is_thing: (N,) bool.
        scores: (N,).
        areas: (N,) pixels.
    """
    rows = zip(*(column.tolist() for column in (category_ids, is_thing, scores, areas)), strict=True)
    segments_info: list[dict[str, object]] = []
    stuff: dict[int, int] = {}
    numbers = []
    for category, isthing, score, area in rows:
        number = None if isthing else stuff.get(category)
        if number is None:
            number = len(segments_info) + 1
            segments_info.append(
                {"id": number, "category_id": category, "isthing": isthing, "score": score, "area": area}
            )
            if not isthing:
                stuff[category] = number
        else:
            segments_info[number - 1]["area"] += area
        numbers.append(number)
    return numbers, segments_info


def instance_result(candidates: Candidates, scores: Tensor, size: tuple[int, int], mask_threshold: float) -> Instances:
    """Return all things with box, mask before overlaps are resolved, class and score, best first."""
    scores = scores[: len(candidates.boxes)]
    order = scores.argsort(descending=True)
    instances = Instances(size)
    instances.pred_masks = masks_above(candidates.masks[order], size, mask_threshold)
    if candidates.boxes.shape[-1] == 4:
        height, width = size
        scale = candidates.boxes.new_tensor([width, height, width, height])
        boxes = box_convert(candidates.boxes[order], "cxcywh", "xyxy") * scale
        instances.pred_boxes = Boxes(clip_boxes_to_image(boxes, size))
    else:
        instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes().to(scores.device)
    instances.pred_classes = candidates.category_ids[order]
    instances.scores = scores[order]
    return instances


def semantic_result(candidates: Candidates, size: tuple[int, int], categories: Categories) -> Tensor:
    """Return per-class evidence (K, H0, W0): the best class probability times mask value, masks capped at 1.

    Channels are the metadata's contiguous ids. Where ids of things and stuff overlap (Detectron2's "separated" form),
    they are the ids of stuff, and channel 0 is all things, as in that form's semantic truth.
    """
    ids = candidates.category_ids
    channels = {*categories.thing_ids, *categories.stuff_ids}
    if len(channels) < categories.num_things + categories.num_stuff:
        ids = torch.where(candidates.is_thing, 0, ids)
        channels = {0, *categories.stuff_ids}
    evidence = candidates.class_probs[:, None, None] * candidates.masks.clamp(max=1)
    scores = evidence.new_zeros((max(channels) + 1, *evidence.shape[1:]))
    scores.scatter_reduce_(0, ids[:, None, None].expand_as(evidence), evidence, "amax")
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
