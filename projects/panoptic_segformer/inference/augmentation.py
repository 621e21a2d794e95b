"""Test-time augmentation: a picture is seen in several sizes and mirrored, and what the queries find is put together.

Candidates of all views are brought into one frame (masks mirrored back and resized, boxes mirrored back), and those of
one object are joined: left to the merging, the best one alone would stay, while the mean of their masks mends contours
and holes. Config keys are Detectron2's TEST.AUG. The rule's numbers were chosen on synthetic scenes, see
docs/test_time_augmentation.md.
Shape legend: V views, N candidates of one, A of all, n joined ones, h, w mask size, H, W picture size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ..modeling.levels import Size
from .candidates import Candidates

__all__ = ["Views", "find_in_views", "join_views", "mirrored"]

# Masks of things in two views are of one object from this overlap on (intersection over union).
LEAST_IOU = 0.5
# Exponent of the class probability in the weight of a mask.
WEIGHT_EXPONENT = 2


@dataclass(frozen=True)
class Views:
    """How a picture is seen; the first view is trusted most, and its masks are the frame of all.

    Attributes:
        min_sizes: short sides in pixels; empty = the size that the picture has.
        max_size: limit of the long side.
        flip: whether each size is seen mirrored too.
    """

    min_sizes: tuple[int, ...]
    max_size: int
    flip: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Views | None:
        """Return what TEST.AUG asks for; None where it is switched off.

        Raises: ValueError: if a size is not a positive number.
        """
        node = cfg.TEST.AUG
        if not node.ENABLED:
            return None
        for size in (*node.MIN_SIZES, node.MAX_SIZE):
            if not isinstance(size, int) or size < 1:
                raise ValueError(
                    f"TEST.AUG.MIN_SIZES is {tuple(node.MIN_SIZES)} and MAX_SIZE {node.MAX_SIZE}, but {size!r} is no "
                    "size: give whole numbers of pixels, and () as MIN_SIZES to keep the size that a picture has"
                )
        return cls(tuple(node.MIN_SIZES), node.MAX_SIZE, node.FLIP)

    def sizes(self, size: Size) -> list[Size]:
        """Return the different sizes that a picture of a size (H, W) is seen in."""
        shapes = [ResizeShortestEdge.get_output_shape(*size, side, self.max_size) for side in self.min_sizes]
        return list(dict.fromkeys(shapes)) or [size]


@torch.no_grad()
def find_in_views(
    find: Callable[[list[Tensor]], list[Candidates]], image: Tensor, views: Views, mask_threshold: float
) -> Candidates:
    """Return what may become a segment of a picture, from all its views.

    Args:
        find: returns the candidates of pictures (3, H, W) of one size.
        image: (3, H, W), normalised.
        views: how it is seen.
        mask_threshold: what a pixel of a mask exceeds, when masks are compared.
    """
    found: list[Candidates] = []
    for size in views.sizes(tuple(image.shape[-2:])):
        seen = _resized(image, size)
        if not views.flip:
            found += find([seen])
            continue
        straight, flipped = find([seen, seen.flip(-1)])
        found += [straight, mirrored(flipped)]
    return join_views(found, mask_threshold)


def mirrored(candidates: Candidates) -> Candidates:
    """Return the candidates as they are in the mirrored picture: left and right change places."""
    boxes = candidates.boxes.clone()
    boxes[:, :1] = 1 - boxes[:, :1]  # The first coordinate, where there are any, is the centre's.
    return dataclasses.replace(candidates, masks=candidates.masks.flip(-1), boxes=boxes)


def join_views(views: Sequence[Candidates], mask_threshold: float) -> Candidates:
    """Return the candidates of all views, those of one object joined; of things at most as many as one view has.

    Candidates of a view are matched one to one with what the views before it have found: those of one class that
    overlap most and are surest. A joined candidate has the mean of its masks, weighted by the squared class
    probability, and the box of the first view that has it. Its class probability is, for a thing, the highest in any
    view, times the share of the views that have it if the first one has not; for stuff, the mean over the views.

    Args:
        views: V of them, not mirrored, with masks of any size.
        mask_threshold: what a pixel of a mask exceeds, when masks are compared.
    """
    if len(views) == 1:
        return views[0]
    frame = views[0].masks.shape[-2:]
    views = [dataclasses.replace(view, masks=_resized(view.masks, frame)) for view in views]
    things = [view.select(view.is_thing) for view in views]
    stuff = [view.select(~view.is_thing) for view in views]
    return Candidates.joined([_joined(things, mask_threshold, True), _joined(stuff, mask_threshold, False)])


def _joined(views: Sequence[Candidates], mask_threshold: float, is_thing: bool) -> Candidates:
    """Return the joined candidates of one kind, things or stuff."""
    masks, probs, category_ids, boxes = (
        torch.cat([getattr(view, name) for view in views]) for name in ("masks", "class_probs", "category_ids", "boxes")
    )
    overlaps = _overlaps(masks > mask_threshold)
    likeness = overlaps * (probs[:, None] * probs).sqrt()
    likeness[category_ids[:, None] != category_ids] = 0
    if is_thing:
        likeness[overlaps < LEAST_IOU] = 0
    numbers = [len(view.masks) for view in views]
    founders, objects = _match(likeness, numbers)
    count = len(founders)
    if is_thing:
        shares = objects.bincount(minlength=count) / len(views)
        shares[: numbers[0]] = 1
        joined_probs = shares * probs.new_zeros(count).scatter_reduce_(0, objects, probs, "amax")
        best = joined_probs.topk(min(count, max(numbers))).indices
    else:
        joined_probs = probs.new_zeros(count).index_add_(0, objects, probs) / len(views)
        best = torch.arange(count, device=probs.device)
    return Candidates(
        masks=_mean_masks(masks, probs**WEIGHT_EXPONENT, objects, count)[best],
        class_probs=joined_probs[best],
        category_ids=category_ids[founders[best]],
        is_thing=torch.full_like(best, is_thing, dtype=torch.bool),
        boxes=boxes[founders[best]] if is_thing else boxes,
    )


def _overlaps(pixels: Tensor) -> Tensor:
    """Return intersection over union (A, A) of all pairs of masks (A, h, w) bool; 0 where both are empty."""
    flat = pixels.flatten(1).float()
    with torch.autocast(flat.device.type, enabled=False):  # Half precision can't count the pixels of a mask.
        intersections, areas = flat @ flat.T, flat.sum(dim=1)
    return intersections / (areas[:, None] + areas - intersections).clamp(min=1)


def _match(likeness: Tensor, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Match the candidates of each view one to one with the objects of the views before it.

    Args:
        likeness: (A, A) of all candidates, view by view; those with 0 don't match.
        numbers: of the candidates of each view.
    Returns: the first candidate (n,) of each object, those of the first view first; the object (A,) of each candidate.
    """
    first, *others = torch.arange(len(likeness), device=likeness.device).split(list(numbers))
    founders, objects = first, [first]
    for own in others:
        likeness_of_pairs = likeness[founders][:, own]
        matches = linear_sum_assignment(likeness_of_pairs.cpu().numpy(), maximize=True)
        rows, columns = (torch.as_tensor(indices, device=own.device) for indices in matches)
        alike = likeness_of_pairs[rows, columns] > 0
        found = torch.full_like(own, -1)
        found[columns[alike]] = rows[alike]
        is_new = found < 0
        found[is_new] = len(founders) + torch.arange(int(is_new.sum()), device=own.device)
        founders = torch.cat([founders, own[is_new]])
        objects.append(found)
    return founders, torch.cat(objects)


def _mean_masks(masks: Tensor, weights: Tensor, objects: Tensor, count: int) -> Tensor:
    """Return the weighted mean (n, h, w) of the masks (A, h, w) of each object; 0 where all weights are."""
    sums = weights.new_zeros(count).index_add_(0, objects, weights)
    shares = weights / sums[objects].clamp(min=torch.finfo(sums.dtype).tiny)
    return torch.zeros_like(masks[:count]).index_add_(0, objects, masks * shares[:, None, None])


def _resized(values: Tensor, size: Size) -> Tensor:
    """Return maps or masks (n, H, W) in another size; bilinear, over all pixels where it gets smaller."""
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
