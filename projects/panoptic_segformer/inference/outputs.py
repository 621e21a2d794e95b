"""Results of one picture in Detectron2's formats: panoptic, instances, semantic.

Only what the asked-for results need is computed: candidates that can't survive merging are dropped while their masks
are small, and a mask that several candidates share is upsampled once.
Shape legend: N candidates (things first), n distinct masks, h, w mask size, H0, W0 size of the result, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, clip_boxes_to_image

from ..data.categories import Categories
from .merging import MergeOptions, UpsampledMasks, merge_masks, upper_score_bounds, upsample_masks

__all__ = ["Candidates", "instance_result", "panoptic_result", "picture_results", "semantic_result"]


@dataclass(frozen=True)
class Candidates:
    """Everything that may become a segment of one picture.

    Attributes:
        masks: (n, h, w) ReLU masks of the picture's own area.
        mask_index: (N,) which mask is a candidate's.
        class_probs: (N,) in [0, 1].
        category_ids: (N,) contiguous ids of the dataset's metadata.
        is_thing: (N,) bool; things come first.
        boxes: (number of things, 4), (cx, cy, w, h) in [0, 1] of the picture.
    """

    masks: Tensor
    mask_index: Tensor
    class_probs: Tensor
    category_ids: Tensor
    is_thing: Tensor
    boxes: Tensor

    def select(self, keep: Tensor) -> Candidates:
        """Return the candidates at keep: (N,) bool, with the masks that they need."""
        mask_index, renumbered = self.mask_index[keep].unique(return_inverse=True)
        return Candidates(
            self.masks[mask_index],
            renumbered,
            self.class_probs[keep],
            self.category_ids[keep],
            self.is_thing[keep],
            self.boxes[keep[: len(self.boxes)]],
        )


def picture_results(
    candidates: Candidates,
    size: tuple[int, int],
    categories: Categories,
    options: MergeOptions,
    outputs: tuple[bool, bool, bool],
) -> dict[str, object]:
    """Return the results of one picture of size (H0, W0).

    Args:
        candidates: what may become a segment.
        size: height and width of the results.
        categories: the dataset's classes.
        options: thresholds of merging.
        outputs: which of panoptic_seg, instances and sem_seg to compute.
    Returns: dict with the keys `panoptic_seg`, `instances` and `sem_seg` as asked for.
    """
    panoptic_on, instance_on, semantic_on = outputs
    results: dict[str, object] = {}
    if semantic_on:
        num_classes = categories.num_things + categories.num_stuff
        results["sem_seg"] = semantic_result(candidates, size, num_classes)
    bounds = upper_score_bounds(candidates.class_probs, candidates.masks[candidates.mask_index], options)
    may_survive = bounds >= options.score_threshold
    needed = may_survive & panoptic_on
    if instance_on:
        needed = needed | candidates.is_thing  # instance AP counts low scores as well
    candidates = candidates.select(needed)
    masks = upsample_masks(candidates.masks, size, options.mask_threshold)
    mask_scores = masks.means[candidates.mask_index]
    scores = candidates.class_probs**options.class_exponent * mask_scores**options.mask_exponent
    if panoptic_on:
        results["panoptic_seg"] = panoptic_result(candidates, masks, scores, options)
    if instance_on:
        results["instances"] = instance_result(candidates, masks, scores)
    return results


def panoptic_result(
    candidates: Candidates, masks: UpsampledMasks, scores: Tensor, options: MergeOptions
) -> tuple[Tensor, list[dict[str, object]]]:
    """Return segment ids (H0, W0) int32 and one record per segment, best first."""
    alive = scores >= options.score_threshold
    index = alive.nonzero()[:, 0]
    segment_ids, kept, areas = merge_masks(
        masks.inside[candidates.mask_index[index]], scores[index], candidates.is_thing[index], options
    )
    kept = index[kept]
    columns = (candidates.category_ids[kept], candidates.is_thing[kept], scores[kept], areas)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    segments_info = [
        {"id": number, "category_id": category, "isthing": is_thing, "score": score, "area": area}
        for number, (category, is_thing, score, area) in enumerate(rows, start=1)
    ]
    return segment_ids, segments_info


def instance_result(candidates: Candidates, masks: UpsampledMasks, scores: Tensor) -> Instances:
    """Return all things with box, mask before overlaps are resolved, class and score, best first."""
    size = tuple(masks.inside.shape[1:])
    scores = scores[: len(candidates.boxes)]
    order = scores.argsort(descending=True)
    height, width = size
    scale = candidates.boxes.new_tensor([width, height, width, height])
    boxes = box_convert(candidates.boxes[order], "cxcywh", "xyxy") * scale
    instances = Instances(size)
    instances.pred_boxes = Boxes(clip_boxes_to_image(boxes, size))
    instances.pred_masks = masks.inside[candidates.mask_index[order]]
    instances.pred_classes = candidates.category_ids[order]
    instances.scores = scores[order]
    return instances


def semantic_result(candidates: Candidates, size: tuple[int, int], num_classes: int) -> Tensor:
    """Return per-class evidence (K, H0, W0): the best class probability times mask value, masks capped at 1."""
    evidence = candidates.class_probs[:, None, None] * candidates.masks[candidates.mask_index].clamp(max=1)
    index = candidates.category_ids[:, None, None].expand_as(evidence)
    scores = evidence.new_zeros((num_classes, *evidence.shape[1:]))
    scores.scatter_reduce_(0, index, evidence, "amax")
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
