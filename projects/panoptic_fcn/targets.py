"""What heads and kernels shall learn of one picture: on each level its heat-maps, score maps and regions.

Paper, sections 3.2 and 3.3, as the released code makes them, but of PanopticDatasetMapper's examples: a pixel has one
segment, while the released models learned instance annotations that overlap, and crowds are unlabelled, which they
learned as "any thing". All is in the geometry of the padded batch; masks are soft, since they are resized bilinearly.
Shape legend: H, W size of the padded batch, h, w size of a level, T things, n of them on a level, U stuff classes of
the picture ("any thing" is one), m of them on a level, K_th thing classes, K stuff classes with "any thing" in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from panoptic_segformer.data.semantic import ALL_THINGS, UNLABELLED, semantic_labels
from panoptic_segformer.training.targets import resize_masks

from .heads import MASK_STRIDE
from .heat_maps import HeatMapOptions, draw_heat_map

__all__ = ["Canvas", "LevelTargets", "PictureTargets", "TargetOptions", "no_segments", "picture_targets"]

# Cells of a thing are those where its resized mask is above this.
LEAST_THING_VALUE = 0.1
# Cells of a stuff class are those where its resized mask is at least this.
LEAST_STUFF_VALUE = 0.5


@dataclass(frozen=True)
class Canvas:
    """Sizes (height, width) of a padded batch: its own, in pixels, and those of the levels, finest first."""

    size: tuple[int, int]
    levels: Sequence[tuple[int, int]]

    @property
    def mask_size(self) -> tuple[int, int]:
        """Size of the masks, (H / 4, W / 4)."""
        return self.size[0] // MASK_STRIDE, self.size[1] // MASK_STRIDE


@dataclass(frozen=True)
class TargetOptions:
    """How targets are made.

    Attributes:
        instance_scales: per level the least and greatest sqrt(box area) of its things, pixels, both included.
        center_type: centres of things, "mass" or "box".
        heat_maps: how centres are drawn.
        num_things: K_th.
        num_stuff: K.
        with_things_as_stuff: whether "any thing" is a stuff class to be learned.
    """

    instance_scales: Sequence[tuple[float, float]]
    center_type: str
    heat_maps: HeatMapOptions
    num_things: int
    num_stuff: int
    with_things_as_stuff: bool


@dataclass(frozen=True)
class LevelTargets:
    """What is to be learned on one level.

    Attributes:
        heat_map: (K_th, h, w) in [0, 1], 1 at the centres of things.
        things: (n,) int64, which of the picture's things are on this level.
        thing_regions: (n, h, w) bool, their cells.
        score_map: (K, h, w) in [0, 1], soft masks of stuff.
        stuff: (m,) int64, which of the picture's stuff classes are on this level.
        stuff_regions: (m, h, w) bool, their cells.
    """

    heat_map: Tensor
    things: Tensor
    thing_regions: Tensor
    score_map: Tensor
    stuff: Tensor
    stuff_regions: Tensor


@dataclass(frozen=True)
class PictureTargets:
    """What is to be learned of one picture.

    Attributes:
        thing_classes: (T,) int64 in [0, K_th).
        thing_masks: (T, H / 4, W / 4) in [0, 1].
        stuff_classes: (U,) int64 in [0, K).
        stuff_masks: (U, H / 4, W / 4) in [0, 1].
        levels: finest first.
    """

    thing_classes: Tensor
    thing_masks: Tensor
    stuff_classes: Tensor
    stuff_masks: Tensor
    levels: list[LevelTargets]


@torch.no_grad()
def picture_targets(
    things: Instances, stuff: Instances, canvas: Canvas, options: TargetOptions, device: torch.device
) -> PictureTargets:
    """Return the targets of a training example.

    Args:
        things: the example's `instances`, as PanopticDatasetMapper makes them.
        stuff: likewise its `stuff`.
        canvas: of the batch.
        options: how targets are made.
        device: where they are made.
    """
    thing_masks = _to_canvas(things.gt_masks.tensor.to(device), canvas)
    # A thing that vanishes at this size has neither centre nor mask to learn.
    visible = thing_masks.flatten(1).any(1)
    thing_masks, thing_classes = thing_masks[visible], things.gt_classes.to(device)[visible]
    boxes = Boxes(things.gt_boxes.tensor.to(device)[visible])
    centers = boxes.get_centers() / MASK_STRIDE if options.center_type == "box" else _centers_of_mass(thing_masks)
    stuff_classes, stuff_masks = _stuff_masks(semantic_labels(things, stuff).to(device), canvas, options)

    sides = boxes.area().sqrt()
    levels = []
    for size, (low, high) in zip(canvas.levels, options.instance_scales, strict=True):
        rows = ((sides >= low) & (sides <= high)).nonzero()[:, 0]
        box_sizes = boxes.tensor[rows, 2:] - boxes.tensor[rows, :2]
        heat_map = draw_heat_map(
            thing_classes[rows],
            _to_level(centers[rows], canvas.mask_size, size),
            _to_level(box_sizes, canvas.size, size),
            (options.num_things, *size),
            options.heat_maps,
        )
        regions = resize_masks(thing_masks[rows], size, torch.float32) > LEAST_THING_VALUE
        scores = resize_masks(stuff_masks, size, torch.float32).clamp(max=1)
        scores = scores.where(scores >= LEAST_STUFF_VALUE, 0)
        score_map = scores.new_zeros(options.num_stuff, *size).index_copy_(0, stuff_classes, scores)
        present = scores.flatten(1).any(1).nonzero()[:, 0]
        levels.append(LevelTargets(heat_map, rows, regions, score_map, present, scores[present] > 0))
    return PictureTargets(thing_classes, thing_masks, stuff_classes, stuff_masks, levels)


def no_segments(image_size: tuple[int, int]) -> Instances:
    """Return the truth of a picture (height, width) that has none of its kind."""
    return Instances(
        image_size,
        gt_classes=torch.zeros(0, dtype=torch.int64),
        gt_boxes=Boxes(torch.zeros(0, 4)),
        gt_masks=BitMasks(torch.zeros(0, *image_size, dtype=torch.bool)),
    )


def _to_canvas(masks: Tensor, canvas: Canvas) -> Tensor:
    """Return bool masks (N, height, width) of a picture at a quarter of its size, on the canvas (N, H / 4, W / 4)."""
    height, width = (max(1, round(side / MASK_STRIDE)) for side in masks.shape[1:])
    bottom, right = canvas.mask_size[0] - height, canvas.mask_size[1] - width
    return F.pad(resize_masks(masks, (height, width), torch.float32), (0, right, 0, bottom))


def _stuff_masks(labels: Tensor, canvas: Canvas, options: TargetOptions) -> tuple[Tensor, Tensor]:
    """Return the stuff classes (U,) of a label map (height, width), and their masks on the canvas."""
    classes = labels.unique()
    classes = classes[classes != UNLABELLED]
    if not options.with_things_as_stuff:
        classes = classes[classes != ALL_THINGS]
    return classes, _to_canvas(labels == classes[:, None, None], canvas)


def _centers_of_mass(masks: Tensor) -> Tensor:
    """Return the mean (x, y) of the cells of soft masks (T, h, w) that are not zero: (T, 2), cells."""
    inside = masks > 0
    area = inside.sum((1, 2))
    means = []
    for along in (1, 2):  # Sums over rows leave columns, and the other way round.
        counts = inside.sum(along)
        means.append((counts * torch.arange(counts.shape[1], device=masks.device)).sum(1) / area)
    return torch.stack(means, dim=1)


def _to_level(pairs: Tensor, size: tuple[int, int], level_size: tuple[int, int]) -> Tensor:
    """Return (x, y) pairs (N, 2) of a map of one size (height, width) in units of another."""
    return pairs * pairs.new_tensor([level_size[1] / size[1], level_size[0] / size[0]])
