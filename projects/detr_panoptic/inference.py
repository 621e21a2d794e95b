"""From queries with classes, boxes and masks to results in Detectron2's formats.

DETR's own merging gives every pixel to the most confident mask there, among the queries that are sure of their class.
Panoptic SegFormer's mask-wise merging is an option.
References: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 4.4; Li et al.,
"Panoptic SegFormer", CVPR 2022, section 3.6.
Shape legend: N queries of one picture, h, w mask size (the picture's own area), H, W its size in the network, H0, W0
size of the result.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, clip_boxes_to_image

from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.inference.merging import MergeOptions, score_candidates
from panoptic_segformer.inference.outputs import number_segments, panoptic_result
from panoptic_segformer.modeling.levels import Size
from panoptic_segformer.ops import masks_above

__all__ = ["InferenceOptions", "Predictions", "instance_result", "merge_by_masks", "merge_by_pixels"]

# Segments of so many pixels are dropped.
SMALL_AREA = 4

PanopticResult = tuple[Tensor, list[dict[str, object]]]


@dataclass(frozen=True)
class InferenceOptions:
    """What is computed from the queries outside training; see MODEL.DETR.TEST.

    Attributes:
        score_threshold: least class probability of a segment.
        compat_dedup: treat several queries of one stuff class as the authors' code does.
        merging: thresholds of mask-wise merging; None takes DETR's own.
        with_instances: whether `instances` are returned too.
        mask_threshold: what a pixel of an instance has to exceed.
    """

    score_threshold: float
    compat_dedup: bool
    merging: MergeOptions | None
    with_instances: bool
    mask_threshold: float


@dataclass(frozen=True)
class Predictions:
    """Queries of one picture.

    Attributes:
        class_probs: (N,) of the best class of the dataset.
        is_object: (N,) bool, whether that is more probable than "no object".
        category_ids: (N,) its contiguous id in the dataset's metadata.
        is_thing: (N,) bool.
        boxes: (N, 4), (cx, cy, w, h) in [0, 1] of the picture.
        logits: (N, h, w) of the masks, None where there are none.
    """

    class_probs: Tensor
    is_object: Tensor
    category_ids: Tensor
    is_thing: Tensor
    boxes: Tensor
    logits: Tensor | None = None

    def select(self, index: Tensor) -> Predictions:
        """Return the queries at index: (N,) bool, or (n,) int64 to put them into another order."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Predictions(**{name: None if value is None else value[index] for name, value in values.items()})

    def is_segment(self, options: InferenceOptions) -> Tensor:
        """Return which queries (N,) bool can become a segment, as far as it shows without their masks."""
        if options.merging is None:
            return self.is_object & (self.class_probs > options.score_threshold)
        # The other factor of the score is a mean of probabilities, at most 1.
        return self.class_probs**options.merging.class_exponent >= options.merging.score_threshold


def merge_by_pixels(found: Predictions, image_size: Size, size: Size, *, compat_dedup: bool) -> PanopticResult:
    """Give each pixel to the query with the highest mask logit; drop small segments and begin again.

    Every pixel belongs to a segment, unless no query is left.

    Args:
        found: the queries that may become segments.
        image_size: (H, W), where masks are compared.
        size: (H0, W0); ids, not masks, are brought to it.
        compat_dedup: True judges queries by their own pixels after these went to the first query of their stuff class:
            all but the first have none, are dropped, and the rest competes for their pixels anew. False judges them
            together with the first, and they stay.
    Returns: segment ids (H0, W0) int32, 0 = void; one record per segment, in the order of the queries.
    """
    number = len(found.class_probs)
    owners = _first_of_stuff_class(found)
    left = torch.arange(number, device=owners.device)
    while len(left):
        winners = left[_strongest(found.logits[left], image_size)]
        ids = _resize_nearest(owners[winners], size)
        areas = ids.flatten().bincount(minlength=number)
        is_large = areas[left if compat_dedup else owners[left]] > SMALL_AREA
        if bool(is_large.all()):
            return _numbered(ids, areas, found)
        left = left[is_large]
    return torch.zeros(size, dtype=torch.int32, device=owners.device), []


def merge_by_masks(found: Predictions, size: Size, options: MergeOptions) -> PanopticResult:
    """Merge mask by mask, best first (Panoptic SegFormer); results as `merge_by_pixels` gives them."""
    things, stuff = found.is_thing.nonzero()[:, 0], (~found.is_thing).nonzero()[:, 0]
    found = found.select(torch.cat([things, stuff]))
    candidates = Candidates(
        masks=found.logits.sigmoid(),
        class_probs=found.class_probs,
        category_ids=found.category_ids,
        is_thing=found.is_thing,
        boxes=found.boxes[: len(things)],
    )
    scores = score_candidates(candidates.class_probs, candidates.masks, size, options)
    return panoptic_result(candidates, scores, size, options)


def instance_result(found: Predictions, image_size: Size, size: Size, mask_threshold: float) -> Instances:
    """Return the queries of things with box, class and probability, best first, and masks where there are any.

    Args:
        found: queries of one picture, those of stuff are left out.
        image_size: (H, W), where masks are compared with the threshold.
        size: (H0, W0).
        mask_threshold: a probability.
    """
    found = found.select(found.is_thing)
    found = found.select(found.class_probs.argsort(descending=True, stable=True))
    instances = Instances(size)
    height, width = size
    boxes = box_convert(found.boxes, "cxcywh", "xyxy") * found.boxes.new_tensor([width, height, width, height])
    instances.pred_boxes = Boxes(clip_boxes_to_image(boxes, size))
    instances.scores = found.class_probs
    instances.pred_classes = found.category_ids
    if found.logits is not None:
        masks = masks_above(found.logits, image_size, math.log(mask_threshold / (1 - mask_threshold)))
        instances.pred_masks = _resize_nearest(masks, size)
    return instances


def _first_of_stuff_class(found: Predictions) -> Tensor:
    """Return for each query (N,) the first one of its stuff class; things stand for themselves."""
    firsts: dict[int, int] = {}
    rows = zip(found.category_ids.tolist(), found.is_thing.tolist(), strict=True)
    owners = [
        query if is_thing else firsts.setdefault(category, query) for query, (category, is_thing) in enumerate(rows)
    ]
    return found.category_ids.new_tensor(owners)


def _strongest(logits: Tensor, size: Size) -> Tensor:
    """Return which of the masks (N, h, w), resized, has the highest logit in each pixel: (H, W) int64.

    One mask at a time is held at that size.
    """
    best = torch.full(size, -torch.inf, dtype=logits.dtype, device=logits.device)
    winners = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for number, mask in enumerate(logits):
        values = F.interpolate(mask[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        winners[values > best] = number
        best = torch.maximum(best, values)
    return winners


def _resize_nearest(values: Tensor, size: Size) -> Tensor:
    """Return values (..., H, W) at another size (..., H0, W0), each from the pixel that its centre lies in."""
    if values.shape[-2:] == size:
        return values
    rows, columns = (
        torch.arange(1, 2 * new, 2, device=values.device) * old // (2 * new)
        for new, old in zip(size, values.shape[-2:], strict=True)
    )
    return values[..., rows[:, None], columns]


def _numbered(ids: Tensor, areas: Tensor, found: Predictions) -> PanopticResult:
    """Return a map of query numbers (H0, W0) with ids from 1, and its records; areas: (N,) pixels per query."""
    present = areas.nonzero()[:, 0]
    numbers, records = number_segments(
        found.category_ids[present], found.is_thing[present], found.class_probs[present], areas[present]
    )
    of_query = torch.zeros_like(areas, dtype=torch.int32)
    of_query[present] = of_query.new_tensor(numbers)
    return of_query[ids], records
