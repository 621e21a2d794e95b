"""Correct what the files themselves say how to correct; nothing is guessed, no picture or png is touched.

Each correction belongs to a fault that is marked as fixable: areas and boxes are counted in the png, segments
without a pixel are dropped, stuff is no crowd, height and width are those of the picture.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...writing import whole_file
from ..measuring import Extent
from .faults import Severity
from .json_faults import Content
from .validating import Validation

__all__ = ["Correction", "check_new", "correct"]


@dataclass(frozen=True)
class Correction:
    """What became of the faults of a dataset.

    Attributes:
        content: the corrected json.
        done: number of places by fault that are right now; left: likewise of errors and warnings that are as they were.
    """

    content: dict[str, Any]
    done: dict[str, int]
    left: dict[str, int]

    def write(self, path: Path) -> None:
        """Write the corrected json.

        Raises: ValueError: as `check_new`.
        """
        check_new(path)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(self.content), encoding="utf-8")


def check_new(path: Path) -> None:
    """Raise ValueError if a corrected json would replace a file, or has no folder to go to."""
    if path.exists():
        raise ValueError(f"{path} exists: give the corrected json a name of its own, nothing is replaced")
    if not path.parent.is_dir():
        raise ValueError(f"{path} can't be written: folder {path.parent} does not exist, make it first")


def correct(validation: Validation) -> Correction:
    """Return the corrected json of a dataset that was validated; the validation stays as it is.

    Raises: ValueError: if the json could not be read.
    """
    document = copy.deepcopy(validation.document)
    if not isinstance(document.content, dict):
        raise ValueError(f"{document.path} can't be corrected: {document.problem or 'it is no json object'}")
    content = Content.of(document)
    for _, segment, category in content.segments():
        if category is not None and not category["isthing"] and segment.get("iscrowd"):
            segment["iscrowd"] = 0
    for (image, annotation), measured in zip(content.pairs(), validation.measured, strict=True):
        if measured.is_json_size_wrong:
            image["height"], image["width"] = measured.size
        if measured.extents is not None:
            annotation["segments_info"] = _present(annotation["segments_info"], measured.extents)
    counts = validation.tally.counts
    faults = [fault for fault in validation.found if fault.severity is not Severity.NOTE]
    done = {fault.name: counts[fault.name] for fault in faults if fault.is_fixable}
    left = {fault.name: counts[fault.name] for fault in faults if not fault.is_fixable}
    return Correction(document.content, done, left)


def _present(segments: list[dict[str, Any]], extents: dict[int, Extent]) -> list[dict[str, Any]]:
    """Return the segments that have pixels, with their areas and boxes."""
    return [
        {**segment, "area": extents[segment["id"]].area, "bbox": extents[segment["id"]].box}
        for segment in segments
        if segment["id"] in extents
    ]
