"""Read the files of a dataset in COCO-panoptic form: the json, the pictures and the png of segment ids.

Everything that can be wrong with them is found here and said in one sentence with the file's name.
Reference: https://cocodataset.org/#format-data, "Panoptic Segmentation". Shape legend: H, W picture size.
"""

from __future__ import annotations

import colorsys
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import detection_utils
from PIL import Image

__all__ = [
    "VOID",
    "check_segments",
    "ids_present",
    "is_color",
    "picture_pixels",
    "read_annotations",
    "read_categories",
    "read_json",
    "read_panoptic_json",
    "read_picture",
    "read_segment_colors",
    "read_segment_ids",
]

# Id of pixels that belong to no segment.
VOID = 0

_FORM = "COCO-panoptic form needs the lists 'images', 'annotations' (with 'segments_info') and 'categories'"
PATHS_HINT = "correct its path; relative paths start at $DETECTRON2_DATASETS (./datasets if it is not set)"
# Step around the colour circle that keeps any number of hues apart.
_GOLDEN_RATIO = 0.618034
_THREE_BYTES = 2**24 - 1


def read_json(path: str | Path) -> Any:
    """Return the content of a json, whatever it is.

    Raises: FileNotFoundError: if it does not exist. ValueError: if it is not json.
    """
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a json file ({error}): {_FORM}") from error


def read_panoptic_json(path: str | Path) -> dict[str, Any]:
    """Return the content of a json in COCO-panoptic form, its categories checked and sorted by id.

    Raises: FileNotFoundError: if it does not exist. ValueError: if it is not json, not panoptic, or contradicts
        itself (says why).
    """
    content = _read_lists(path, ("images", "annotations", "categories"))
    _check_entries(content["images"], ("id", "file_name", "height", "width"), f"'images' of {path}")
    _check_annotations(content["annotations"], path)
    content["categories"] = _checked_categories(content["categories"], path)
    return content


def read_annotations(path: str | Path) -> list[dict[str, Any]]:
    """Return the annotations of a json in COCO-panoptic form, which predictions have even where the rest is missing.

    Raises: as `read_panoptic_json`.
    """
    annotations = _read_lists(path, ("annotations",))["annotations"]
    _check_annotations(annotations, path)
    return annotations


def read_categories(path: str | Path) -> list[dict[str, Any]]:
    """Return the categories of a panoptic json, sorted by id, each with id, name, isthing and color.

    The rest of the file is not parsed: that of COCO's training set has hundreds of megabytes.
    Raises: as `read_panoptic_json`.
    """
    text = _read_text(path)
    decoder = json.JSONDecoder()
    # The word may stand in a text too; if no place fits, the full reading says what is wrong.
    for match in reversed(list(re.finditer(r'"categories"\s*:\s*(?=\[)', text))):
        try:
            categories, _ = decoder.raw_decode(text, match.end())
            return _checked_categories(categories, path)
        except ValueError:
            continue
    return read_panoptic_json(path)["categories"]


def read_picture(path: str | Path, image_format: str) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 with its EXIF rotation applied.

    Args:
        path: the file.
        image_format: order of the channels, "RGB" or "BGR".
    Raises: FileNotFoundError: if it does not exist. ValueError: if it cannot be decoded.
    """
    with _explained(path), Image.open(path) as image:
        return picture_pixels(image, image_format)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a picture is read into a message."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"picture {path} does not exist: restore it or remove its entry") from error
    # Pillow raises all of these on damaged files, the last one on pictures of extreme size.
    except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"picture {path} cannot be read ({error}): replace the file or remove it from the data"
        ) from error


def picture_pixels(image: Image.Image, image_format: str) -> np.ndarray:
    """Return an opened picture as `read_picture` does; as a colour, a grey of 16 bits keeps its upper 8."""
    image = detection_utils._apply_exif_orientation(image)
    if image.mode.startswith("I;16") and image_format != "L":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # Pillow would make all above 255 white
    return detection_utils.convert_PIL_to_numpy(image, image_format)


def read_segment_colors(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Return a png of segment ids as colours (H, W, 3) uint8; the id is red + 256 green + 65536 blue.

    Args:
        path: the png.
        size: (height, width) of its picture.
    Raises: FileNotFoundError, ValueError: as `read_picture`, and if its size is not its picture's.
    """
    colors = read_picture(path, "RGB")
    _check_size(path, colors.shape[:2], size)
    return colors


def read_segment_ids(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Return the ids (H, W) int32 of a png, faster than from its colors; arguments and raises as there."""
    with _explained(path), Image.open(path) as stored:
        image = detection_utils._apply_exif_orientation(stored)
        # Pillow keeps red, green and blue in the first three of four bytes, as the id's number has them.
        colors = image if image.mode == "RGB" else image.convert("RGB")  # convert() copies even then
        words = np.frombuffer(colors.tobytes("raw", "RGBX"), dtype="<i4")
        height, width = image.height, image.width
    ids = (words & _THREE_BYTES).reshape(height, width)
    _check_size(path, ids.shape, size)
    return ids


def _check_size(path: str | Path, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    if shape != tuple(size):
        raise ValueError(
            f"{path} has (height, width) {shape}, its picture has {tuple(size)} (EXIF rotation "
            "applied): every pixel of the picture needs its segment id"
        )


def ids_present(ids: np.ndarray) -> np.ndarray:
    """Return the distinct values of an id map (H, W) in increasing order, much faster than `np.unique`."""
    # A value that is present starts at least one horizontal run.
    starts = np.ones(ids.shape, dtype=bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=starts[:, 1:])
    return np.unique(ids[starts])


def check_segments(path: str | Path, ids: np.ndarray, segment_ids: set[int]) -> None:
    """Check that a png holds exactly the segments that the json lists for it, and void.

    Args:
        path: the png, for the message.
        ids: (H, W), its content.
        segment_ids: ids of the json's segments.
    Raises: ValueError: naming the ids that only one of the two has.
    """
    present = set(ids_present(ids).tolist()) - {VOID}
    if unknown := sorted(present - segment_ids):
        raise ValueError(
            f"{path} has {len(unknown)} segment ids that the json does not list for it: {_some(unknown)}; "
            f"the json lists {_some(sorted(segment_ids))}. Use the png that was written together with the json"
        )
    if absent := sorted(segment_ids - present):
        raise ValueError(
            f"{path} lacks {len(absent)} of the {len(segment_ids)} segments that the json lists for it: "
            f"{_some(absent)}. Use the png that was written together with the json"
        )


def _repeated(ids: Iterable[Any]) -> list[Any]:
    return [id_ for id_, count in Counter(ids).items() if count > 1]


def _some(ids: list[Any], limit: int = 8) -> str:
    return ", ".join(map(str, ids[:limit])) + (", ..." if len(ids) > limit else "") if ids else "none"


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"panoptic json {path} does not exist: {PATHS_HINT}") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a json file ({error}): {_FORM}") from error


def _read_lists(path: str | Path, keys: tuple[str, ...]) -> dict[str, Any]:
    content = read_json(path)
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path} is not panoptic, it has no list {key!r}: {_FORM}")
    return content


def _check_annotations(annotations: list[Any], path: str | Path) -> None:
    _check_entries(annotations, ("image_id", "file_name", "segments_info"), f"'annotations' of {path}")
    for annotation in annotations:
        where = f"'segments_info' of {annotation['file_name']} in {path}"
        _check_entries(annotation["segments_info"], ("id", "category_id"), where)
        if repeated := _repeated(segment["id"] for segment in annotation["segments_info"]):
            raise ValueError(
                f"{where} lists segment ids more than once: {_some(repeated)}; every segment needs its own id"
            )
    if repeated := _repeated(annotation["image_id"] for annotation in annotations):
        raise ValueError(
            f"{path} annotates {len(repeated)} pictures more than once, ids {_some(repeated)}: "
            "keep one annotation of each picture"
        )


def _check_entries(entries: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(entries, list):
        raise ValueError(f"{where} is not a list: {_FORM}")
    for entry in entries:
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"an entry in {where} has no {', '.join(missing)}: {str(entry)[:80]}; {_FORM}")


def _checked_categories(categories: list[Any], path: str | Path) -> list[dict[str, Any]]:
    _check_entries(categories, ("id", "name", "isthing"), f"'categories' of {path}")
    if not categories:
        raise ValueError(f"{path} has no categories: {_FORM}")
    ordered = sorted(categories, key=lambda category: category["id"])
    for first, second in itertools.pairwise(ordered):
        if first["id"] == second["id"]:
            both = f"{first['name']!r} and {second['name']!r}"
            raise ValueError(f"{path} gives category id {first['id']} to {both}: every category needs its own id")
    colored = [{**category, "color": category.get("color") or _color(index)} for index, category in enumerate(ordered)]
    for category in colored:
        if not is_color(category["color"]):
            raise ValueError(
                f"{path} gives category {category['name']!r} the color {category['color']!r}: expected three "
                "integers from 0 to 255, or no color"
            )
    return colored


def is_color(value: Any) -> bool:
    """Return whether a value is a category's color: [red, green, blue] of integers from 0 to 255."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    )


def _color(index: int) -> list[int]:
    return [round(255 * value) for value in colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.7, 0.9)]
