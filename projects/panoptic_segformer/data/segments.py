"""Read the segments of one picture from either form of Detectron2's dataset dicts.

The "standard" form (ours too) names a png of segment ids; the "separated" form of Panoptic FPN has instance
annotations and a semantic png, from which the same kind of id map is painted. Crowd segments are left out:
their pixels keep an id that no segment has, so they train nothing.
Shape legend: H, W picture size.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import numpy as np
from panopticapi.utils import id2rgb, rgb2id
from pycocotools import mask as rle

from .reading import VOID, check_segments, read_picture, read_segment_colors

__all__ = ["Segment", "read_segments", "segmentation_mask"]

# Semantic png of Detectron2: value of pixels of any thing, value of pixels that are not annotated.
_ANY_THING = 0
_UNLABELLED = 255
# Instances are painted with ids above those of the semantic png's values.
_FIRST_INSTANCE_ID = 256
# Of a polygon's outline: x and y of three points.
_LEAST_NUMBERS = 6
_LARGEST_COORDINATE = 1e6


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


def segmentation_mask(segmentation: dict[str, Any] | Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) bool of a segmentation as COCO's instances have it: polygons, or RLE of either kind.

    Args:
        segmentation: the polygons' x, y, x, y, ... in pixels, or {"size", "counts"}.
        size: (height, width) of the picture.
    Raises: ValueError: if it is none of these, or the RLE is of another size.
    """
    try:
        if not isinstance(segmentation, dict):
            polygons = [_checked_polygon(polygon) for polygon in segmentation]
            encoded = rle.merge(rle.frPyObjects(polygons, *size)) if polygons else rle.encode(np.zeros(size, "u1", "F"))
        else:
            encoded = segmentation
            _check_counts(segmentation["counts"], segmentation["size"])
            if isinstance(segmentation["counts"], list):
                encoded = rle.frPyObjects(segmentation, *segmentation["size"])
        mask = rle.decode(encoded).astype(bool)
    except Exception as error:  # pycocotools raises that very class.
        raise ValueError(f"a segmentation is neither polygons nor RLE ({error}): {str(segmentation)[:60]}") from error
    if mask.shape != tuple(size):
        raise ValueError(
            f"an RLE has (height, width) {mask.shape}, its picture {tuple(size)}: use the json made for it"
        )
    return mask


def _checked_polygon(polygon: Sequence[float]) -> list[float]:
    points = np.asarray(polygon, dtype=np.float64)
    if points.ndim != 1 or len(points) % 2 or len(points) < _LEAST_NUMBERS:
        raise ValueError(f"a polygon has {points.size} numbers, x and y of three points or more are needed")
    # pycocotools walks along the outline pixel by pixel, and without end where it is not finite.
    if not (np.abs(points) <= _LARGEST_COORDINATE).all():
        raise ValueError(f"a polygon has a coordinate that is no number of at most {_LARGEST_COORDINATE:g} pixels")
    return points.tolist()


def _check_counts(counts: list[int] | str | bytes, size: Sequence[int]) -> None:
    runs = counts if isinstance(counts, list) else _runs(counts)
    # pycocotools leaves the pixels that too few counts say nothing of as they were in memory.
    if sum(runs) != size[0] * size[1] or min(runs, default=0) < 0:
        raise ValueError(f"counts of {sum(runs)} pixels for a size of {size}")


def _runs(counts: str | bytes) -> list[int]:
    """Return the lengths of the runs of a compressed RLE."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode() if isinstance(counts, str) else counts:
        bits = byte - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # the next byte has more bits of this number
            continue
        if bits & 16:
            value -= 1 << shift
        # From the fourth on they are differences to the last run of the same kind.
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


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
        ((segmentation_mask(instance["segmentation"], size), instance["category_id"]) for instance in instances),
        key=lambda entry: -int(entry[0].sum()),
    )
    for number, (mask, category_id) in enumerate(masks, start=_FIRST_INSTANCE_ID):
        ids[mask] = number
        segments.append(Segment(number, category_id, True))
    return id2rgb(ids), segments
