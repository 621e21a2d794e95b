"""Cityscapes as it is downloaded: leftImg8bit and gtFine, the 19 classes that are evaluated.

A pixel of gtFine's instanceIds is a label, or 1000 label + number for a thing that is told apart; a thing's bare
label is a group, which becomes a crowd. Labels that are not evaluated are void. Ids and classes are those of
createPanopticImgs.py of cityscapesscripts; file names are those of the pictures.
Reference: https://github.com/mcordts/cityscapesScripts.
"""

from __future__ import annotations

from pathlib import Path

from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from ..measuring import measure_segments
from .labels import files_below, read_labels
from .output import Output, Source, Truth

__all__ = ["convert_cityscapes"]

_PICTURE, _INSTANCES = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_FIRST_INSTANCE = 1000
_CATEGORIES = [
    {"id": category["id"], "name": category["name"], "isthing": category["isthing"], "color": list(category["color"])}
    for category in CITYSCAPES_CATEGORIES
]
_IS_THING = {category["id"]: bool(category["isthing"]) for category in _CATEGORIES}


def convert_cityscapes(root: Path, split: str, output: Output) -> int:
    """Convert a split of Cityscapes, whose pictures are in root/leftImg8bit/split; return the number of segments.

    Raises: FileNotFoundError: if a folder or labels are missing. ValueError: as `Output.write`.
    """
    labels = root / "gtFine" / split
    sources = [
        Source(name, labels / f"{name.removesuffix(_PICTURE)}{_INSTANCES}")
        for name in files_below(root / "leftImg8bit" / split)
        if name.endswith(_PICTURE)
    ]
    return output.write(sources, _read, _CATEGORIES)


def _read(path: Path) -> Truth:
    ids, segments = read_labels(path), {}
    for id_ in measure_segments(ids):
        is_one = id_ >= _FIRST_INSTANCE
        label = id_ // _FIRST_INSTANCE if is_one else id_
        if label in _IS_THING:
            segments[id_] = label, _IS_THING[label] and not is_one
        else:
            ids[ids == id_] = 0
    return Truth(ids, segments)
