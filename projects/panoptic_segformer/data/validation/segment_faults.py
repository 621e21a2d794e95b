"""Faults of the segments of one annotated picture: where its json and its png contradict each other.

Where the png as a whole is of no use (other faults say why) its segments are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..measuring import Extent
from .examining import Example
from .faults import Faults, Finding, Severity
from .file_faults import has_odd_png, ids_disagree, png_lossy

__all__ = ["SEGMENT_FAULTS", "trusted_extents"]

SEGMENT_FAULTS: Faults[Example] = Faults()

_WRITTEN_TOGETHER = "use the png that was written together with the json"


def trusted_extents(example: Example) -> dict[int, Extent] | None:
    """Return the extents of the png's segments, or None if the png can't be trusted to belong to the json."""
    return None if any(png_of_another_json(example)) else _usable_extents(example)


@SEGMENT_FAULTS.add(Severity.ERROR, _WRITTEN_TOGETHER)
def png_of_another_json(example: Example) -> Iterator[Finding]:
    """Png and segments_info each have ids that the other lacks, or none in common: they don't belong together."""
    extents = _usable_extents(example)
    if extents is None:
        return
    listed = {segment["id"] for segment in example.annotation["segments_info"]}
    absent, unknown = listed - extents.keys(), extents.keys() - listed
    if absent and (unknown or absent == listed):
        seen = f"{len(unknown)} of its ids are not in the json, {len(absent)} of the json's {len(listed)} are not in it"
        yield Finding(example.png.name, seen)


@SEGMENT_FAULTS.add(Severity.ERROR, _WRITTEN_TOGETHER)
def id_not_in_json(example: Example) -> Iterator[Finding]:
    """Pixels of a png have an id that its segments_info lacks."""
    listed = {segment["id"] for segment in example.annotation["segments_info"]}
    for id_, extent in (trusted_extents(example) or {}).items():
        if id_ not in listed:
            yield Finding(f"{example.png.name}, segment {id_}", f"{extent.area} pixels", "an id of segments_info")


@SEGMENT_FAULTS.add(Severity.ERROR, f"{_WRITTEN_TOGETHER}, or remove the segment", is_fixable=True)
def segment_not_in_png(example: Example) -> Iterator[Finding]:
    """A segment of the json has no pixel in the png."""
    for where, segment, extent in _segments(example):
        if extent is None and segment.get("area") != 0:
            yield Finding(where, "0 pixels", f"{segment.get('area', 'some')}")


@SEGMENT_FAULTS.add(Severity.ERROR, "remove the segment", is_fixable=True)
def segment_empty(example: Example) -> Iterator[Finding]:
    """A segment of the json has no pixel in the png, and says so: its area is 0."""
    for where, segment, extent in _segments(example):
        if extent is None and segment.get("area") == 0:
            yield Finding(where, "0 pixels")


@SEGMENT_FAULTS.add(
    Severity.ERROR, "write the number of pixels: panopticapi's evaluation counts with it", is_fixable=True
)
def area_wrong(example: Example) -> Iterator[Finding]:
    """A segment's area is not its number of pixels in the png."""
    for where, segment, extent in _segments(example):
        if extent is not None and "area" in segment and segment["area"] != extent.area:
            yield Finding(where, f"area {segment['area']}", extent.area)


@SEGMENT_FAULTS.add(
    Severity.WARNING, "write the box of its pixels: training makes its own, other tools need it", is_fixable=True
)
def bbox_wrong(example: Example) -> Iterator[Finding]:
    """A segment's bbox (left, top, width, height) is not the box of its pixels in the png."""
    for where, segment, extent in _segments(example):
        if extent is not None and "bbox" in segment and segment["bbox"] != extent.box:
            yield Finding(where, f"bbox {segment['bbox']}", extent.box)


@SEGMENT_FAULTS.add(Severity.WARNING, "write areas: panopticapi's own evaluation needs them", is_fixable=True)
def area_missing(example: Example) -> Iterator[Finding]:
    """A segment has no area."""
    yield from _without(example, "area")


@SEGMENT_FAULTS.add(Severity.WARNING, "write boxes: training makes its own, other tools need them", is_fixable=True)
def bbox_missing(example: Example) -> Iterator[Finding]:
    """A segment has no bbox."""
    yield from _without(example, "bbox")


def _usable_extents(example: Example) -> dict[int, Extent] | None:
    """Return the extents of the png's segments, or None if the file as a whole is at fault."""
    is_other_mode = example.png.mode != "RGB" and ids_disagree(example)
    return None if has_odd_png(example) or is_other_mode or any(png_lossy(example)) else example.extents


def _without(example: Example, key: str) -> Iterator[Finding]:
    for where, segment, extent in _segments(example):
        if extent is not None and key not in segment:
            yield Finding(where)


def _segments(example: Example) -> Iterator[tuple[str, dict[str, Any], Extent | None]]:
    """Yield where a segment is, its entry of the json, and its extent in the png (None if it has no pixel)."""
    extents = trusted_extents(example)
    if extents is None:
        return
    for segment in example.annotation["segments_info"]:
        yield f"{example.png.name}, segment {segment['id']}", segment, extents.get(segment["id"])
