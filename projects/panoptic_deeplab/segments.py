"""From the three dense predictions to segments: Detectron2's grouping of pixels, told in our form.

Panoptic-DeepLab, section 3.3. Shape legend: K channels of the semantic head, n segments, H0, W0 size of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F

from .channels import Channels

__all__ = ["GroupingOptions", "instance_result", "panoptic_result"]

# Detectron2 tells segments as LABEL_DIVISOR * channel + number within the class, and pixels of none as VOID. Its own
# divisor, 1000, would take the thousandth thing of a class for stuff of the next channel.
LABEL_DIVISOR = 2**20
VOID = -1


@dataclass(frozen=True)
class GroupingOptions:
    """Thresholds of the grouping, MODEL.PANOPTIC_DEEPLAB.

    Attributes:
        center_threshold: lower values of the heat-map are no centres.
        nms_kernel: side of the window in which a centre is the greatest value, pixels.
        num_centers: centres that are kept, best first.
        stuff_area: stuff on fewer pixels is dropped.
    """

    center_threshold: float
    nms_kernel: int
    num_centers: int
    stuff_area: int

    @classmethod
    def from_config(cls, node: CfgNode) -> GroupingOptions:
        """Return the options of MODEL.PANOPTIC_DEEPLAB."""
        return cls(node.CENTER_THRESHOLD, node.NMS_KERNEL, node.TOP_K_INSTANCE, node.STUFF_AREA)


def panoptic_result(
    semantic: Tensor, centers: Tensor, offsets: Tensor, channels: Channels, options: GroupingOptions
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return segment ids (H0, W0) int32 and one record per segment, in the order of their channels.

    A segment's score is the mean probability of its class, times the heat-map at the centre of its pixels for things,
    as Detectron2 scores instances; the heat-map is not bounded.

    Args:
        semantic: (K, H0, W0) logits.
        centers: (1, H0, W0) heat-map.
        offsets: (2, H0, W0) rows and columns from each pixel to the centre of its thing.
        channels: of the semantic head.
        options: thresholds.
    """
    labels = _labels(semantic, centers, offsets, channels, options)
    # Void comes first, so that it gets 0 whether there is any or not.
    found, ids = torch.cat([labels.new_tensor([VOID]), labels.flatten()]).unique(return_inverse=True)
    ids = ids[1:].view_as(labels)
    segments = found[1:]
    scores, areas = _scores(ids, segments.div(LABEL_DIVISOR, rounding_mode="floor"), semantic, centers[0], channels)
    rows = zip(segments.tolist(), scores.tolist(), areas.tolist(), strict=True)
    return ids.int(), [_record(number, *row, channels) for number, row in enumerate(rows, start=1)]


def _labels(semantic: Tensor, centers: Tensor, offsets: Tensor, channels: Channels, options: GroupingOptions) -> Tensor:
    """Return the labels (H0, W0) int64 that Detectron2 gives to pixels."""
    height, width = centers.shape[-2:]
    classes = semantic.argmax(0, keepdim=True)
    if 1 in (height, width):
        # Detectron2 fails on a single row or column: here is a second, of no class and without centres, cut off again
        # below.
        classes, centers, offsets = (F.pad(maps, (0, 1, 0, 1), value=-1) for maps in (classes, centers, offsets))
    labels, _ = get_panoptic_segmentation(
        classes,
        centers,
        offsets,
        thing_ids=channels.things,
        label_divisor=LABEL_DIVISOR,
        stuff_area=options.stuff_area,
        void_label=VOID,
        threshold=options.center_threshold,
        nms_kernel=options.nms_kernel,
        top_k=min(options.num_centers, centers.numel()),
    )
    return labels[0, :height, :width]


def _record(number: int, label: int, score: float, area: int, channels: Channels) -> dict[str, Any]:
    channel = label // LABEL_DIVISOR
    return {
        "id": number,
        "category_id": channels.category_ids[channel],
        "isthing": channel in channels.things,
        "score": score,
        "area": area,
    }


def _scores(
    ids: Tensor, segment_channels: Tensor, semantic: Tensor, centers: Tensor, channels: Channels
) -> tuple[Tensor, Tensor]:
    """Return scores and areas (n,) of segments 1 to n of a map of ids (H0, W0), given their channels (n,)."""
    number, pixels = len(segment_channels) + 1, ids.flatten()
    areas = pixels.bincount(minlength=number)[1:]

    def means(values: Tensor) -> Tensor:
        return pixels.bincount(values.double().flatten(), minlength=number)[1:] / areas

    own_channel = torch.cat([segment_channels.new_zeros(1), segment_channels])[ids]
    scores = means(semantic.softmax(0).gather(0, own_channel[None]))
    rows, columns = (
        torch.arange(side, device=ids.device).view(shape).expand_as(ids)
        for side, shape in zip(ids.shape, ((-1, 1), (1, -1)), strict=True)
    )
    is_thing = torch.isin(segment_channels, segment_channels.new_tensor(channels.things))
    at_center = centers[means(rows).long(), means(columns).long()]
    return torch.where(is_thing, scores * at_center, scores), areas


def instance_result(segment_ids: Tensor, segments: list[dict[str, Any]]) -> Instances:
    """Return the things of a panoptic result, with box, mask, class and score."""
    things = [segment for segment in segments if segment["isthing"]]
    device = segment_ids.device
    numbers = torch.tensor([thing["id"] for thing in things], device=device, dtype=segment_ids.dtype)
    instances = Instances(tuple(segment_ids.shape))
    instances.pred_masks = segment_ids == numbers[:, None, None]
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes().to(device)
    instances.pred_classes = torch.tensor([thing["category_id"] for thing in things], device=device, dtype=torch.int64)
    instances.scores = torch.tensor([thing["score"] for thing in things], device=device)
    return instances
