"""Check a whole dataset: its json once, its pictures in parallel, its folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..datasets import PanopticPaths
from ..measuring import Extent
from ..parallel import parallel_map
from ..reading import PATHS_HINT
from .examining import examine
from .faults import Fault, Severity, Tally
from .file_faults import FILE_FAULTS, has_wrong_json_size
from .folder_faults import FOLDER_FAULTS, Folders
from .form_faults import FORM_FAULTS, Document
from .json_faults import JSON_FAULTS, Content
from .segment_faults import SEGMENT_FAULTS, trusted_extents

__all__ = ["ALL_FAULTS", "Measured", "Validation", "validate"]

ALL_FAULTS: dict[str, Fault] = {
    fault.name: fault
    for faults in (FORM_FAULTS, JSON_FAULTS, FILE_FAULTS, SEGMENT_FAULTS, FOLDER_FAULTS)
    for fault in faults
}

# Picture entry and annotation of the json.
_Job = tuple[Mapping[str, Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Measured:
    """What the files of one annotated picture say for certain.

    Attributes:
        size: (height, width) of the picture, after EXIF rotation; None if it can't be read.
        extents: of the png's segments by id; None if the png is of no use.
        is_json_size_wrong: whether the json's size is to be replaced by the picture's.
    """

    size: tuple[int, int] | None
    extents: dict[int, Extent] | None
    is_json_size_wrong: bool


@dataclass(frozen=True)
class Validation:
    """What was found in a dataset.

    Attributes:
        paths: where it lies.
        document: its json as it is; content: the json's well-formed entries.
        tally: the faults.
        measured: an entry per pair of picture and annotation of `content`, in their order.
    """

    paths: PanopticPaths
    document: Document
    content: Content
    tally: Tally
    measured: list[Measured]

    def count(self, severity: Severity) -> int:
        """Return how many places have a fault of a severity."""
        return sum(count for name, count in self.tally.counts.items() if ALL_FAULTS[name].severity is severity)

    @property
    def found(self) -> list[Fault]:
        """The classes of faults that were found, in the order of `ALL_FAULTS`."""
        return [fault for name, fault in ALL_FAULTS.items() if self.tally.counts[name]]


def validate(paths: PanopticPaths, *, workers: int = 1, num_examples: int = 5) -> Validation:
    """Check a dataset in COCO-panoptic form.

    Args:
        paths: where it lies.
        workers: number of processes that read pictures.
        num_examples: places that are kept of each fault.
    Raises: FileNotFoundError: if the json or one of the folders does not exist.
    """
    for folder in (paths.image_root, paths.panoptic_root):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"folder {folder} does not exist: {PATHS_HINT}")
    document = Document.read(paths.panoptic_json)
    content = Content.of(document)
    tally = Tally(num_examples)
    FORM_FAULTS.search(document, tally)
    JSON_FAULTS.search(content, tally)
    check = partial(_check, paths=paths, num_examples=num_examples)
    measured = []
    for faults, facts in parallel_map(check, content.pairs(), workers):
        tally.merge(faults)
        measured.append(facts)
    FOLDER_FAULTS.search(Folders.of(paths, document), tally)
    return Validation(paths, document, content, tally, measured)


def _check(job: _Job, *, paths: PanopticPaths, num_examples: int) -> tuple[Tally, Measured]:
    """Check one annotated picture."""
    image, annotation = job
    example = examine(image, annotation, paths)
    tally = Tally(num_examples)
    FILE_FAULTS.search(example, tally)
    SEGMENT_FAULTS.search(example, tally)
    size = example.picture.size if example.picture.is_sound else None
    return tally, Measured(size, trusted_extents(example), has_wrong_json_size(example))
