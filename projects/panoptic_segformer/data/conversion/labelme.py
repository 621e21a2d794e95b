"""Polygons drawn with labelme: a json per picture, a label and perhaps a group per shape.

Shapes of one label and one group are one thing; without group every shape is one. Shapes of a stuff class are one
segment. Where shapes overlap, painting.py says what lies on top.
Reference: https://github.com/wkentaro/labelme.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..reading import read_json
from ..segments import segmentation_mask
from .labels import files_below
from .output import Output, Source, Truth, check_name
from .painting import Region, paint

__all__ = ["convert_labelme"]

_CIRCLE_CORNERS = 90
_KINDS = {"shapes": list, "imagePath": str, "imageHeight": int, "imageWidth": int}


def convert_labelme(folder: Path, images: Path, classes: Sequence[dict[str, Any]], output: Output) -> int:
    """Convert labelme's json of a folder and those below; return the number of segments.

    Args:
        folder: has the json; each names its picture relative to itself.
        images: the folder of pictures that names in the result are relative to.
        classes: with name and isthing; labels are names.
        output: where the result goes.
    Raises: FileNotFoundError: if the folder does not exist. ValueError: if a file is not labelme's, names a picture
        outside `images`, or has a label or kind of shape that is not known.
    """
    sources = []
    for path in (folder / name for name in files_below(folder, (".json",))):
        name = _read_file(path)["imagePath"].replace("\\", "/")
        name = PurePosixPath(os.path.relpath(path.parent / name, images)).as_posix()
        try:
            check_name(name, "pictures")
        except ValueError as error:
            raise ValueError(f"{path}: {error}; --images gives the folder, here {images}") from error
        sources.append(Source(name, path))
    by_name = {category["name"]: category for category in classes}
    return output.write(sources, partial(_read, classes=by_name), classes)


def _read_file(path: Path) -> dict[str, Any]:
    content = read_json(path)
    missing = [key for key in _KINDS if not isinstance(content, dict) or content.get(key) is None]
    if missing:
        raise ValueError(f"{path} is not labelme's, it lacks {', '.join(missing)}: remove it or save it again")
    wrong = [key for key, kind in _KINDS.items() if not isinstance(content[key], kind)]
    shapes = content["shapes"] if "shapes" not in wrong else ()
    wrong += [f"shape {number}" for number, shape in enumerate(shapes) if not _is_shape(shape)]
    if wrong:
        raise ValueError(f"{path} is not labelme's, of another form are {', '.join(wrong[:8])}: save it again")
    return content


def _is_shape(shape: Any) -> bool:
    """Return whether an entry is an object whose label and group are plain values."""
    return isinstance(shape, dict) and not any(
        isinstance(shape.get(key), (list, dict)) for key in ("label", "group_id")
    )


def _read(path: Path, *, classes: Mapping[str, Mapping[str, Any]]) -> Truth:
    content = _read_file(path)
    groups: dict[Any, dict[int, Mapping[str, Any]]] = defaultdict(dict)  # shapes by their number
    for number, shape in enumerate(content["shapes"]):
        label, group = shape.get("label"), shape.get("group_id")
        if label not in classes:
            raise ValueError(f"{path} has label {label!r}, which is none of {', '.join(classes)}: add it")
        groups[(label, group) if group is not None else number][number] = shape
    size = content["imageHeight"], content["imageWidth"]
    return paint((_region(path, shapes, classes, size) for shapes in groups.values()), size)


def _region(
    path: Path,
    shapes: Mapping[int, Mapping[str, Any]],
    classes: Mapping[str, Mapping[str, Any]],
    size: tuple[int, int],
) -> Region:
    """Return what shapes of one class cover together."""
    mask = np.zeros(size, dtype=bool)
    for number, shape in shapes.items():
        category = classes[shape["label"]]
        try:
            mask |= segmentation_mask([_polygon(shape)], size)
        except ValueError as error:
            raise ValueError(f"{path}, shape {number} ({category['name']}): {error}") from error
    return Region(mask, category["id"], bool(category["isthing"]))


def _polygon(shape: Mapping[str, Any]) -> list[float]:
    """Return x, y, x, y, ... of a shape's outline."""
    kind = shape.get("shape_type", "polygon")
    points = np.asarray(shape.get("points", ()), dtype=np.float64).reshape(-1, 2)
    if kind == "polygon" and len(points) >= 3:
        return points.ravel().tolist()
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points.tolist()
        return [left, top, right, top, right, bottom, left, bottom]
    if kind == "circle" and len(points) == 2:
        center, radius = points[0], math.dist(*points)
        angles = np.linspace(0, 2 * math.pi, _CIRCLE_CORNERS, endpoint=False)
        return (center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).ravel().tolist()
    raise ValueError(
        f"a {kind} of {len(points)} points has no area that is understood: draw polygons, rectangles or circles"
    )
