"""Merging of full-size masks, one after the other.

Shape legend: N candidates, h, w mask size, H0, W0 size of the result.
"""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, clip_boxes_to_image

from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.inference.merging import MergeOptions
from panoptic_segformer.inference.outputs import Outputs

__all__ = ["merge_at_full_size"]


def merge_at_full_size(
    candidates: Candidates, size: tuple[int, int], options: MergeOptions, outputs: Outputs
) -> dict[str, object]:
    """Return the results of one picture of size (H0, W0): `panoptic_seg` and `instances`, as asked for."""
    masks = F.interpolate(candidates.masks[None], size, mode="bilinear", align_corners=False)[0]
    inside = masks > options.mask_threshold
    # Counts in the masks' type: torch would first copy all pixels to int64.
    areas = inside.sum((1, 2), dtype=masks.dtype)
    means = (masks * inside).sum((1, 2)) / (areas + 1)
    scores = candidates.class_probs**options.class_exponent * means**options.mask_exponent
    order = scores.argsort(descending=True)
    results: dict[str, object] = {}
    if outputs.panoptic:
        results["panoptic_seg"] = _paint(candidates, inside, scores, order, options)
    if outputs.instances:
        results["instances"] = _instances(candidates, inside, scores, order[candidates.is_thing[order]])
    return results


def _paint(
    candidates: Candidates, inside: Tensor, scores: Tensor, order: Tensor, options: MergeOptions
) -> tuple[Tensor, list[dict[str, object]]]:
    """Return segment ids (H0, W0) int32 and a record per segment, as our merging does."""
    segment_ids = torch.zeros(inside.shape[1:], dtype=torch.int32, device=inside.device)
    segments_info: list[dict[str, object]] = []
    for row in order.tolist():
        score, is_thing = scores[row].item(), bool(candidates.is_thing[row])
        if score < options.score_threshold:
            break  # those behind score less still
        mask = inside[row]
        area = mask.sum().item()
        free = mask & (segment_ids == 0)
        visible = free.sum().item()
        limit = options.thing_overlap_threshold if is_thing else options.stuff_overlap_threshold
        if not area or (area - visible) / area > limit:
            continue
        number = len(segments_info) + 1
        segment_ids[free] = number
        category = int(candidates.category_ids[row])
        segments_info.append(
            {"id": number, "category_id": category, "isthing": is_thing, "score": score, "area": visible}
        )
    return segment_ids, segments_info


def _instances(candidates: Candidates, inside: Tensor, scores: Tensor, things: Tensor) -> Instances:
    """Return all things, best first: rows `things` of the candidates, which have the things' boxes in front."""
    height, width = inside.shape[1:]
    instances = Instances((height, width))
    instances.pred_masks = inside[things]
    boxes = box_convert(candidates.boxes[things], "cxcywh", "xyxy") * scores.new_tensor([width, height, width, height])
    instances.pred_boxes = Boxes(clip_boxes_to_image(boxes, (height, width)))
    instances.pred_classes = candidates.category_ids[things]
    instances.scores = scores[things]
    return instances
