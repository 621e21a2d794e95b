"""From kernels and features to the results of one picture (paper, section 3.4 and appendix, as released).

Masks stay at a quarter of the picture's size as long as they can. What is upsampled is brought to the padded batch's
size, cut to the picture, and then brought to the result's size.
Shape legend: N masks, H, W size of the padded batch, H0, W0 size of the result, K stuff classes with "any thing" in
front, E length of a kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.semantic import ALL_THINGS
from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.inference.merging import MergeOptions, score_candidates, upper_score_bounds
from panoptic_segformer.inference.outputs import panoptic_result
from panoptic_segformer.ops import paint_masks
from panoptic_segformer.training.targets import resize_masks

from .kernels import Kernels

__all__ = [
    "CombineOptions",
    "InferenceOptions",
    "Masks",
    "Sizes",
    "combine",
    "find_instances",
    "merge",
    "semantic_result",
    "to_result_size",
]

# Keeps the mean over an empty mask finite; part of the released models' arithmetic.
AREA_EPSILON = 1e-6
# Least score of a thing once its mask is known; THING.THRES, which the fast models raise, is for kernels alone.
LEAST_THING_SCORE = 0.05
# Upsampled values that are held at a time; 2^24 of them are 64 MiB.
VALUES_PER_CHUNK = 2**24


@dataclass(frozen=True)
class CombineOptions:
    """How things and stuff become a panoptic result, see MODEL.INFERENCE.COMBINE.

    Attributes:
        score_threshold: least score of a thing.
        overlap_threshold: greatest share of a thing that better ones may have taken.
        stuff_area_limit: least visible area of a stuff segment, pixels.
    """

    score_threshold: float
    overlap_threshold: float
    stuff_area_limit: int


@dataclass(frozen=True)
class InferenceOptions:
    """What becomes of masks, see MODEL.INFERENCE.

    Attributes:
        mask_threshold: probability that a pixel of a thing has to exceed.
        num_things: in a picture, at most.
        combine: the way to a panoptic result; None = there is none.
        merging: mask-wise merging in its place; None = not that.
    """

    mask_threshold: float
    num_things: int
    combine: CombineOptions | None
    merging: MergeOptions | None


@dataclass(frozen=True)
class Sizes:
    """Sizes (height, width) that a picture's masks go through: padded batch, picture in it, result."""

    padded: tuple[int, int]
    image: tuple[int, int]
    result: tuple[int, int]


@dataclass(frozen=True)
class Masks:
    """Masks of one picture.

    Attributes:
        probs: (N, H / 4, W / 4) in [0, 1].
        classes: (N,) int64, of things or of stuff.
        scores: (N,) in [0, 1].
    """

    probs: Tensor
    classes: Tensor
    scores: Tensor

    @classmethod
    def of_kernels(cls, kernels: Kernels, features: Tensor) -> Masks:
        """Return the masks that kernels make of features (E, H / 4, W / 4)."""
        logits = kernels.vectors @ features.flatten(1)
        return cls(logits.sigmoid().unflatten(1, features.shape[1:]), kernels.classes, kernels.scores)

    def select(self, index: Tensor) -> Masks:
        """Return the masks at an index, (n,) int64, or (N,) bool."""
        return Masks(self.probs[index], self.classes[index], self.scores[index])


def find_instances(things: Masks, sizes: Sizes, thing_ids: Tensor, options: InferenceOptions) -> Instances:
    """Return the best things with mask, box, class (contiguous id of the metadata) and score, best first.

    A score is the kernel's times the mean probability inside of the mask; things below LEAST_THING_SCORE are dropped.

    Args:
        things: of one picture.
        sizes: what their masks go through.
        thing_ids: (K_th,) contiguous ids of the classes.
        options: thresholds.
    """
    inside = things.probs > options.mask_threshold
    # A product would spread what is not a number, and such a score would be the best.
    means = things.probs.where(inside, 0).sum((1, 2)) / (inside.sum((1, 2)) + AREA_EPSILON)
    scores, order = (things.scores * means).sort(descending=True, stable=True)
    order = order[scores >= LEAST_THING_SCORE][: options.num_things]
    instances = Instances(sizes.result)
    above = [to_result_size(part, sizes) > options.mask_threshold for part in _parts(things.probs[order], sizes)]
    instances.pred_masks = torch.cat(above)
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes().to(scores.device)
    instances.pred_classes = thing_ids[things.classes[order]]
    instances.scores = scores[: len(order)]
    return instances


def semantic_result(stuff: Masks, probs: Tensor, num_classes: int) -> Tensor:
    """Return the probabilities of all stuff classes (K, H0, W0), 0 for those that were not found.

    Channel 0 is "any thing", the others are the stuff classes in the order of the metadata.

    Args:
        stuff: of the picture.
        probs: (N, H0, W0), its masks at the size of the result.
        num_classes: K.
    """
    return probs.new_zeros(num_classes, *probs.shape[1:]).index_copy_(0, stuff.classes, probs)


def combine(
    instances: Instances, stuff: Masks, probs: Tensor, stuff_ids: tuple[int, ...], options: CombineOptions
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return segment ids (H0, W0) int32 and one record per segment: things, best first, then stuff where it is free.

    Args:
        instances: as `find_instances` gives them.
        stuff: of the picture.
        probs: (N, H0, W0), its masks at the size of the result.
        stuff_ids: contiguous ids of the classes but "any thing".
        options: thresholds.
    """
    order = (instances.scores >= options.score_threshold).nonzero()[:, 0]
    masks = instances.pred_masks[order].to(probs.dtype)
    limits = torch.full_like(instances.scores[order], options.overlap_threshold)
    rows = torch.arange(len(order), device=order.device)
    segment_ids, kept, areas = paint_masks(masks, rows, limits, probs.shape[1:], 0.5)
    number = order[kept]
    columns = (number, instances.pred_classes[number], instances.scores[number], areas[kept])
    segments_info: list[dict[str, Any]] = []
    for instance, category, score, area in zip(*(column.tolist() for column in columns), strict=True):
        segments_info.append(
            {
                "id": len(segments_info) + 1,
                "category_id": category,
                "isthing": True,
                "score": score,
                "area": area,
                "instance_id": instance,
            }
        )
    if len(probs):
        _fill_with_stuff(segment_ids, segments_info, stuff, probs, stuff_ids, options.stuff_area_limit)
    return segment_ids, segments_info


def _fill_with_stuff(
    segment_ids: Tensor,
    segments_info: list[dict[str, Any]],
    stuff: Masks,
    probs: Tensor,
    stuff_ids: tuple[int, ...],
    area_limit: int,
) -> None:
    """Paint the most probable stuff class of every free pixel and append the records, in place."""
    labels = probs.argmax(0)
    is_free = segment_ids == 0
    areas = labels[is_free].bincount(minlength=len(probs)).tolist()
    numbers = []  # Of the segment of each class, 0 where it has none.
    for label, score, area in zip(stuff.classes.tolist(), stuff.scores.tolist(), areas, strict=True):
        is_segment = label != ALL_THINGS and area >= max(area_limit, 1)
        numbers.append(len(segments_info) + 1 if is_segment else 0)
        if is_segment:
            category = stuff_ids[label - 1]
            segments_info.append(
                {"id": numbers[-1], "category_id": category, "isthing": False, "score": score, "area": area}
            )
    segment_ids += segment_ids.new_tensor(numbers)[labels] * is_free


def merge(
    things: Masks, stuff: Masks, sizes: Sizes, categories: Categories, options: MergeOptions
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return what mask-wise merging makes of things and stuff, in place of `combine`.

    Args:
        things: of one picture.
        stuff: likewise; "any thing" is left out.
        sizes: what masks go through.
        categories: of the dataset.
        options: thresholds and exponents.
    """
    stuff = stuff.select(stuff.classes != ALL_THINGS)
    device = things.classes.device
    thing_ids = torch.tensor(categories.thing_ids, dtype=torch.int64, device=device)
    stuff_ids = torch.tensor(categories.stuff_ids, dtype=torch.int64, device=device)
    class_probs = torch.cat([things.scores, stuff.scores])
    candidates = Candidates(
        masks=torch.cat([things.probs, stuff.probs]),
        class_probs=class_probs,
        category_ids=torch.cat([thing_ids[things.classes], stuff_ids[stuff.classes - 1]]),
        is_thing=torch.arange(len(class_probs), device=device) < len(things.scores),
        boxes=things.probs.new_empty(len(things.scores), 0),
    )
    # Of masks that can't survive nothing is upsampled.
    bounds = upper_score_bounds(candidates.class_probs, candidates.masks, options)
    candidates = candidates.select(bounds >= options.score_threshold)
    candidates = dataclasses.replace(candidates, masks=_own_area(candidates.masks, sizes))
    scores = score_candidates(candidates.class_probs, candidates.masks, sizes.result, options)
    return panoptic_result(candidates, scores, sizes.result, options)


def to_result_size(probs: Tensor, sizes: Sizes) -> Tensor:
    """Return masks (N, H / 4, W / 4) at the size of the result, (N, H0, W0)."""
    probs = _own_area(probs, sizes)
    return probs if sizes.image == sizes.result else resize_masks(probs, sizes.result, probs.dtype)


def _own_area(probs: Tensor, sizes: Sizes) -> Tensor:
    """Return masks (N, H / 4, W / 4) at the picture's own size, without padding."""
    height, width = sizes.image
    return resize_masks(probs, sizes.padded, probs.dtype)[:, :height, :width]


def _parts(probs: Tensor, sizes: Sizes) -> Iterator[Tensor]:
    """Yield masks (N, H / 4, W / 4) a few at a time, at least once: memory does not grow with their number."""
    step = max(1, VALUES_PER_CHUNK // (sizes.padded[0] * sizes.padded[1]))
    yield from probs.split(step)
