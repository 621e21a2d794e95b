"""ADE20K as the scene parsing challenge gives it: ADEChallengeData2016, 150 classes of which 100 are things.

Stuff comes from `annotations` (numbers 1 to 150, 0 = void), things from `annotations_instance` (red: number of the
thing class, 1 to 100; green: number of the instance, 0 = none), which lie on top. Pixels of a thing class that belong
to no instance are void. The classes have the ids 0 to 149, as MaskFormer's preparation gives them.
Reference: https://github.com/CSAILVision/sceneparsing, https://github.com/CSAILVision/placeschallenge.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES

from ..measuring import measure_segments
from ..reading import read_picture
from .labels import files_below, read_labels
from .output import Output, Source, Truth

__all__ = ["ADE20K_CATEGORIES", "convert_ade20k"]

_STUFF_NUMBERS = frozenset({
    1, 2, 3, 4, 5, 6, 7, 10, 12, 14, 17, 18, 22, 26, 27, 29, 30, 35, 41, 47, 49, 52, 53, 55, 60, 61, 62, 64, 69, 78,
    80, 85, 92, 95, 97, 100, 101, 102, 106, 107, 110, 114, 115, 118, 123, 129, 132, 141, 142, 146,
})  # fmt: skip
ADE20K_CATEGORIES = [
    {"id": number - 1, "name": name.strip(), "isthing": int(number not in _STUFF_NUMBERS)}
    for number, name in enumerate(ADE20K_SEM_SEG_CATEGORIES, start=1)
]
# Thing classes are numbered in the order of all classes.
_THING_IDS = [category["id"] for category in ADE20K_CATEGORIES if category["isthing"]]
# Stuff keeps its number; things get ids above all of these.
_FIRST_THING_ID = 256


class _Files(NamedTuple):
    """The labels of one picture."""

    classes: Path
    instances: Path


def convert_ade20k(root: Path, split: str, output: Output) -> int:
    """Convert a split of ADE20K, whose pictures are in root/images/split; return the number of segments.

    Raises: FileNotFoundError: if a folder or labels are missing. ValueError: if labels have numbers that are no
        class, and as `Output.write`.
    """
    sources = []
    for name in files_below(root / "images" / split):
        labels = PurePosixPath(name).with_suffix(".png")
        sources.append(
            Source(name, _Files(root / "annotations" / split / labels, root / "annotations_instance" / split / labels))
        )
    return output.write(sources, _read, ADE20K_CATEGORIES)


def _read(files: _Files) -> Truth:
    ids = read_labels(files.classes)
    instances = read_picture(files.instances, "RGB").astype(np.int32)
    if instances.shape[:2] != ids.shape:
        raise ValueError(
            f"{files.instances} has (height, width) {instances.shape[:2]}, {files.classes} has {ids.shape}: both label "
            "one picture, copy them again"
        )
    _check_numbers(files.classes, ids, len(ADE20K_CATEGORIES))
    _check_numbers(files.instances, instances[..., 0], len(_THING_IDS))
    ids[~np.isin(ids, list(_STUFF_NUMBERS))] = 0
    thing_numbers = instances[..., 0]
    is_thing = (thing_numbers > 0) & (instances[..., 1] > 0)
    ids[is_thing] = (_FIRST_THING_ID * thing_numbers + instances[..., 1])[is_thing]
    return Truth(ids, {id_: (_category_id(id_), False) for id_ in measure_segments(ids)})


def _category_id(id_: int) -> int:
    return id_ - 1 if id_ < _FIRST_THING_ID else _THING_IDS[id_ // _FIRST_THING_ID - 1]


def _check_numbers(path: Path, numbers: np.ndarray, largest: int) -> None:
    if numbers.max(initial=0) > largest:
        raise ValueError(f"{path} has number {numbers.max()}, classes are 1 to {largest}: are these ADE20K's labels?")
