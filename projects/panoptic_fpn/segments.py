"""From detected things and semantic logits to one segment map: Detectron2's way, or mask-wise merging.

Panoptic FPN, section 3 (inference), and Panoptic SegFormer, section 3.6.
Shape legend: N detected things, M side of their masks, K_st stuff classes, H0, W0 size of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Instances
from torch import Tensor

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.inference.merging import MergeOptions, score_candidates, upper_score_bounds
from panoptic_segformer.inference.outputs import panoptic_result

__all__ = ["CombineOptions", "combined_segments", "merged_segments"]


@dataclass(frozen=True)
class CombineOptions:
    """Thresholds of Detectron2's combination, MODEL.PANOPTIC_FPN.COMBINE.

    Attributes:
        overlap_threshold: things of which a larger share is taken are dropped.
        stuff_area: stuff on fewer pixels is dropped.
        score_threshold: things of a lower score are dropped.
    """

    overlap_threshold: float
    stuff_area: int
    score_threshold: float


def combined_segments(
    things: Instances, semantic: Tensor, categories: Categories, options: CombineOptions
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return segment ids (H0, W0) int32 and one record per segment, as Detectron2 combines them: things first.

    A thing's score is its detection's, that of stuff the mean probability of its class in the segment.

    Args:
        things: with pred_masks (N, H0, W0), scores and pred_classes in [0, K_th).
        semantic: (1 + K_st, H0, W0) logits of all things together and of each stuff class.
        categories: the dataset's classes.
        options: thresholds.
    """
    segment_ids, segments = combine_semantic_and_instance_outputs(
        things, semantic.argmax(0), options.overlap_threshold, options.stuff_area, options.score_threshold
    )
    # Every pixel of a stuff segment has the segment's class as its best one.
    certainty = semantic.softmax(0).amax(0)
    areas = segment_ids.flatten().bincount(minlength=len(segments) + 1)
    sums = segment_ids.flatten().bincount(certainty.double().flatten(), minlength=len(segments) + 1)
    means = (sums / areas).tolist()
    areas = areas.tolist()
    # At an overlap threshold of 1 it lists things that others hide entirely.
    visible = [segment for segment in segments if areas[segment["id"]]]
    return segment_ids, [_record(segment, areas, means, categories) for segment in visible]


def _record(
    segment: dict[str, Any], areas: list[int], means: list[float], categories: Categories
) -> dict[str, int | bool | float]:
    """Return our record of one of Detectron2's, whose stuff classes start at 1."""
    number, label, isthing = segment["id"], segment["category_id"], segment["isthing"]
    return {
        "id": number,
        "category_id": categories.thing_ids[label] if isthing else categories.stuff_ids[label - 1],
        "isthing": isthing,
        "score": segment["score"] if isthing else means[number],
        "area": areas[number],
    }


def merged_segments(
    detections: Instances, semantic: Tensor, categories: Categories, options: MergeOptions
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return segment ids (H0, W0) int32 and one record per segment, best first, by mask-wise merging.

    The mask of a thing holds the probabilities of the mask head, that of a stuff class those of the semantic head,
    which are of class and mask in one: the class probability of stuff is 1.

    Args:
        detections: as the heads give them, with pred_masks (N, 1, M, M) in their boxes.
        semantic: as `combined_segments` takes it.
        categories: the dataset's classes.
        options: thresholds and exponents.
    """
    size = semantic.shape[-2], semantic.shape[-1]
    bounds = upper_score_bounds(detections.scores, detections.pred_masks[:, 0], options)
    things, thing_masks = _pasted(detections[bounds >= options.score_threshold], size)
    stuff_masks = semantic.softmax(0)[1:]
    thing_ids = torch.tensor(categories.thing_ids, device=semantic.device)
    stuff_ids = torch.tensor(categories.stuff_ids, device=semantic.device, dtype=torch.int64)
    candidates = Candidates(
        masks=torch.cat([thing_masks.to(semantic), stuff_masks]),
        class_probs=torch.cat([things.scores.to(semantic), semantic.new_ones(len(stuff_masks))]),
        category_ids=torch.cat([thing_ids[things.pred_classes], stuff_ids]),
        is_thing=torch.arange(len(things) + len(stuff_masks), device=semantic.device) < len(things),
        boxes=semantic.new_zeros(len(things), 0),
    )
    candidates = candidates.select(candidates.masks.flatten(1).amax(1) > options.mask_threshold)
    scores = score_candidates(candidates.class_probs, candidates.masks, size, options)
    return panoptic_result(candidates, scores, size, options)


def _pasted(detections: Instances, size: tuple[int, int]) -> tuple[Instances, Tensor]:
    """Return the detections whose boxes are not empty at a size (H0, W0), and their masks (n, H0, W0) in [0, 1]."""
    boxes = detections.pred_boxes.clone()
    height, width = detections.image_size
    boxes.scale(size[1] / width, size[0] / height)
    boxes.clip(size)
    keep = boxes.nonempty()
    # Below 0 stands for no threshold: the values come as bytes.
    masks = paste_masks_in_image(detections.pred_masks[keep, 0], boxes[keep], size, threshold=-1)
    return detections[keep], masks / 255
