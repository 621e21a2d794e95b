"""COCO's instances json together with semantic png: things from the first, stuff from the second.

Where they overlap, painting.py says what lies on top. Pixels that the semantic png gives to a thing class without
an instance are void.
Reference: https://cocodataset.org/#format-data, "Object Detection".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ..reading import read_json
from ..segments import segmentation_mask
from .labels import read_labels
from .output import Output, Source, Truth, check_name
from .painting import Region, paint

__all__ = ["convert_instances"]


class _Picture(NamedTuple):
    """The labels of one picture: its entry, its instances, its semantic png."""

    image: Mapping[str, Any]
    instances: Sequence[Mapping[str, Any]]
    semantic: Path


class _Classes(NamedTuple):
    """What numbers mean: categories by id, category id by value in the semantic png, values that are void."""

    categories: Mapping[int, Mapping[str, Any]]
    category_of_value: Mapping[int, int]
    void: frozenset[int]


def convert_instances(
    instances: Path,
    semantic: Path,
    classes: Sequence[dict[str, Any]],
    output: Output,
    *,
    values: str = "id",
    void: Sequence[int] = (0, 255),
) -> int:
    """Convert a json of instances and a folder of semantic png; return the number of segments.

    Args:
        instances: the json.
        semantic: the folder; the png of picture a/b.jpg is a/b.png.
        classes: all classes, things and stuff, with id, name and isthing.
        output: where the result goes.
        values: what a value in the semantic png is: "id" of a class, or its "index" among the sorted classes.
        void: values that belong to no class.
    Raises: FileNotFoundError: if a file is missing. ValueError: if the json is not of instances, names a class that is
        not there or no thing, or a png has values that are neither a class nor void.
    """
    content = read_json(instances)
    _check(content, instances)
    _check_names(content.get("categories"), classes, instances)
    of_picture = defaultdict(list)
    for annotation in content["annotations"]:
        of_picture[annotation["image_id"]].append(annotation)
    if unknown := of_picture.keys() - {image["id"] for image in content["images"]}:
        raise ValueError(f"{instances} has instances of picture ids that it lacks: {sorted(unknown, key=str)[:8]}")
    sources = []
    for image in content["images"]:
        check_name(image["file_name"], "pictures")
        png = semantic / PurePosixPath(image["file_name"]).with_suffix(".png")
        sources.append(Source(image["file_name"], _Picture(image, of_picture[image["id"]], png)))
    categories = {category["id"]: category for category in classes}
    keys = categories if values == "id" else range(len(categories))
    meaning = _Classes(categories, dict(zip(keys, categories, strict=True)), frozenset(void))
    return output.write(sources, partial(_read, classes=meaning), classes)


def _read(picture: _Picture, *, classes: _Classes) -> Truth:
    size = picture.image["height"], picture.image["width"]
    values = read_labels(picture.semantic)
    if values.shape != size:
        raise ValueError(f"{picture.semantic} has (height, width) {values.shape}, the json has {size} for its picture")
    regions = [*_stuff(values, picture.semantic, classes), *_things(picture, size, classes)]
    return paint(regions, size)


def _stuff(values: np.ndarray, path: Path, classes: _Classes) -> Iterator[Region]:
    for value in np.unique(values).tolist():
        category_id = classes.category_of_value.get(value)
        if category_id is None and value not in classes.void:
            raise ValueError(f"{path} has value {value}, which is no class: add the class, or the value to --void")
        if category_id is not None and not classes.categories[category_id]["isthing"]:
            yield Region(values == value, category_id, isthing=False)


def _things(picture: _Picture, size: tuple[int, int], classes: _Classes) -> Iterator[Region]:
    for instance in picture.instances:
        where = f"instance {instance.get('id', '')} of {picture.image['file_name']}"
        category = classes.categories.get(instance["category_id"])
        if category is None or not category["isthing"]:
            raise ValueError(f"{where} has category id {instance['category_id']}, which is no thing among the classes")
        try:
            mask = segmentation_mask(instance["segmentation"], size)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield Region(mask, category["id"], isthing=True, iscrowd=bool(instance.get("iscrowd", 0)))


def _check_names(categories: Any, classes: Sequence[dict[str, Any]], path: Path) -> None:
    """Raise ValueError if the json, where it has categories, gives a class's id to another name."""
    names = {category["id"]: category["name"] for category in classes}
    for category in categories if isinstance(categories, list) else ():
        id_, name = (category.get(key) if isinstance(category, dict) else None for key in ("id", "name"))
        if isinstance(id_, int) and names.get(id_, name) != name:
            raise ValueError(
                f"{path} calls category id {id_} {name!r}, the classes call it {names[id_]!r}: give the json's own"
            )


def _check(content: Any, path: Path) -> None:
    keys = {
        "images": {"id", "file_name", "height", "width"},
        "annotations": {"image_id", "category_id", "segmentation"},
    }
    for name, needed in keys.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path} has no list {name!r}: give a json of instances as COCO's detection has it")
        for entry in entries:
            if not isinstance(entry, dict) or not needed <= entry.keys():
                raise ValueError(f"an entry of {name!r} in {path} lacks one of {sorted(needed)}: {str(entry)[:60]}")
            for key in needed & {"id", "image_id", "category_id"}:
                if not isinstance(entry[key], (int, str)):
                    raise ValueError(
                        f"an entry of {name!r} in {path} has {key} {entry[key]!r}: ids are numbers or texts"
                    )
    if repeated := [id_ for id_, count in Counter(image["id"] for image in content["images"]).items() if count > 1]:
        raise ValueError(f"{path} has several pictures of ids {repeated[:8]}: every picture needs its own")
