"""Read the segments of one picture from either form of Detectron2's dataset dicts.

The "standard" form (ours too) names a png of segment ids; the "separated" form of Panoptic FPN has instance
annotations and a semantic png, from which the same kind of id map is painted. Crowd segments are left out:
their pixels keep an id that no segment has, so they train nothing.
Shape legend: H, W picture size.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import polygons_to_bitmask
from panopticapi.utils import id2rgb, rgb2id
from pycocotools import mask as rle

from .reading import VOID, check_segments, read_picture, read_segment_colors

__all__ = ["Segment", "read_segments"]

# Semantic png of Detectron2: value of pixels of any thing, value of pixels that are not annotated.
_ANY_THING = 0
_UNLABELLED = 255
# Instances are painted with ids above those of the semantic png's values.
_FIRST_INSTANCE_ID = 256


class Segment(NamedTuple):
    """One segment: its id in the id map, its class (contiguous id of the metadata) and kind."""

    id: int
    category_id: int
    isthing: bool


def read_segments(
    dataset_dict: dict[str, Any], size: tuple[int, int], thing_ids: Container[int]
) -> tuple[np.ndarray, list[Segment]]:
    """Return the segment colours (H, W, 3) uint8 of a picture (id = R + 256 G + 65536 B) and its segments.

    Args:
        dataset_dict: Detectron2's dict of the picture.
        size: (height, width) of the picture.
        thing_ids: contiguous ids of the thing classes, for segments that do not say whether they are things
            (Detectron2's Cityscapes).
    Raises: FileNotFoundError, ValueError: if the truth is missing, damaged or contradicts itself.
    """
    if "pan_seg_file_name" in dataset_dict:
        return _from_panoptic(dataset_dict, size, thing_ids)
    if "sem_seg_file_name" in dataset_dict and "annotations" in dataset_dict:
        return _from_separated(dataset_dict, size)
    raise ValueError(
        f"{dataset_dict['file_name']} has no panoptic truth, its entry has {sorted(dataset_dict)}: train on "
        "a panoptic dataset (entries with 'pan_seg_file_name' and 'segments_info')"
    )


def _from_panoptic(
    dataset_dict: dict[str, Any], size: tuple[int, int], thing_ids: Container[int]
) -> tuple[np.ndarray, list[Segment]]:
    path, infos = dataset_dict["pan_seg_file_name"], dataset_dict["segments_info"]
    colors = read_segment_colors(path, size)
    check_segments(path, rgb2id(colors), {info["id"] for info in infos})
    return colors, [
        Segment(info["id"], info["category_id"], info.get("isthing", info["category_id"] in thing_ids))
        for info in infos
        if not info.get("iscrowd", 0)
    ]


def _from_separated(dataset_dict: dict[str, Any], size: tuple[int, int]) -> tuple[np.ndarray, list[Segment]]:
    semantic = read_picture(dataset_dict["sem_seg_file_name"], "L")[..., 0]
    if semantic.shape != tuple(size):
        raise ValueError(
            f"{dataset_dict['sem_seg_file_name']} has (height, width) {semantic.shape}, its picture "
            f"{tuple(size)}: every pixel of the picture needs its class"
        )
    ids = semantic.astype(np.int32)
    ids[(semantic == _ANY_THING) | (semantic == _UNLABELLED)] = VOID
    segments = [Segment(int(value), int(value), False) for value in np.unique(ids) if value != VOID]
    instances = [instance for instance in dataset_dict["annotations"] if not instance.get("iscrowd", 0)]
    # Instance annotations may overlap, pixels have one id: the smaller instance lies on top.
    masks = sorted(
        ((_instance_mask(instance, size), instance["category_id"]) for instance in instances),
        key=lambda entry: -int(entry[0].sum()),
    )
    for number, (mask, category_id) in enumerate(masks, start=_FIRST_INSTANCE_ID):
        ids[mask] = number
        segments.append(Segment(number, category_id, True))
    return id2rgb(ids), segments


def _instance_mask(instance: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    segmentation = instance["segmentation"]
    if isinstance(segmentation, dict):
        return rle.decode(segmentation).astype(bool)
    return polygons_to_bitmask([np.asarray(polygon) for polygon in segmentation], *size)
