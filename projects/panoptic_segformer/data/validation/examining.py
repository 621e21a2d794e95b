"""Read one annotated picture, with its png of segment ids, and note what the checks need to know of it.

Damage is noted, not raised: one file must not stop the rest. Files are decoded by the functions that training reads
them with, so what is sound here can be read there.
Shape legend: H, W picture size; a size is (height, width) in pixels.
"""

from __future__ import annotations

import enum
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from panopticapi.utils import rgb2id
from PIL import Image

from ..datasets import PanopticPaths
from ..measuring import Extent, measure_segments
from ..reading import read_picture

__all__ = ["UPRIGHT", "Example", "FileState", "ImageFile", "examine"]

Size = tuple[int, int]

# Value of the EXIF orientation of a picture that is stored as it is shown.
UPRIGHT = 1
_ORIENTATION = 0x0112
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff")
_TURNS = range(2, 9)  # all other numbers are without meaning
# Copying programs reserve a file's length before its content. Cameras fill up too, but behind the end of the picture.
_RESERVED_TAIL = bytes(512)
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}


class FileState(enum.Enum):
    """How far the file of a picture can be used."""

    SOUND = enum.auto()
    MISSING = enum.auto()
    INCOMPLETE = enum.auto()
    UNREADABLE = enum.auto()


@dataclass(frozen=True)
class ImageFile:
    """What is known of the file of a picture or png.

    Attributes:
        name: as the json has it; state: whether the rest is known; problem: what is wrong with it in words.
        format, mode: Pillow's names of the file's format and of its kind of pixels.
        stored_size: before the EXIF rotation; size: after it, as training sees it.
        orientation: EXIF's number, 1 = upright.
    """

    name: str
    state: FileState
    problem: str = ""
    format: str = ""
    mode: str = ""
    stored_size: Size = (0, 0)
    size: Size = (0, 0)
    orientation: int = UPRIGHT

    @property
    def is_sound(self) -> bool:
        """Whether the file can be read to its end."""
        return self.state is FileState.SOUND


@dataclass(frozen=True)
class Example:
    """One annotated picture as it lies on the disk.

    Attributes:
        image, annotation: its entries of the json.
        picture, png: its files.
        extents: of the png's segments by id; None if the png can't be read.
    """

    image: Mapping[str, Any]
    annotation: Mapping[str, Any]
    picture: ImageFile
    png: ImageFile
    extents: dict[int, Extent] | None

    @property
    def json_size(self) -> Size:
        """Size of the picture that the json gives."""
        return self.image["height"], self.image["width"]


def examine(image: Mapping[str, Any], annotation: Mapping[str, Any], paths: PanopticPaths) -> Example:
    """Read both files of an annotated picture; see `Example`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of pictures that it reads all the same.
        picture, _ = _read(paths.image_root, image["file_name"])
        png, colors = _read(paths.panoptic_root, annotation["file_name"])
    extents = None if colors is None else measure_segments(rgb2id(colors))
    return Example(image, annotation, picture, png, extents)


def _read(folder: str, name: str) -> tuple[ImageFile, np.ndarray | None]:
    """Return what is known of a file, and its content (H, W, 3) uint8 RGB if it is sound."""
    path = Path(folder, name)
    if not os.path.isfile(path):  # unlike pathlib's, it takes any name
        return ImageFile(name, FileState.MISSING, _similar(path)), None
    try:
        with Image.open(path) as header:
            orientation = header.getexif().get(_ORIENTATION, UPRIGHT)
            orientation = orientation if orientation in _TURNS else UPRIGHT
            facts = header.format, header.mode, (header.height, header.width)
        pixels = read_picture(path, "RGB")
    except Image.DecompressionBombError as error:
        return ImageFile(name, FileState.UNREADABLE, str(error)), None
    except Exception as error:  # Pillow raises nearly anything on damaged files.
        state = FileState.INCOMPLETE if _begins_as_picture(path) else FileState.UNREADABLE
        return ImageFile(name, state, str(error.__cause__ or error)), None
    if _ends_in_nothing(path, facts[0]):
        return ImageFile(name, FileState.INCOMPLETE, f"its last {len(_RESERVED_TAIL)} bytes are zero"), None
    return ImageFile(name, FileState.SOUND, "", *facts, pixels.shape[:2], orientation), pixels


def _begins_as_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return False
    return any(signature.startswith(start[: len(signature)]) for signature in _SIGNATURES)


def _ends_in_nothing(path: Path, image_format: str) -> bool:
    if image_format not in _ENDS or path.stat().st_size < len(_RESERVED_TAIL):
        return False
    with path.open("rb") as file:
        file.seek(-len(_RESERVED_TAIL), os.SEEK_END)
        if file.read() != _RESERVED_TAIL:
            return False
    return not path.read_bytes().rstrip(b"\0").endswith(_ENDS[image_format])


def _similar(path: Path) -> str:
    """Return a hint at a file whose name differs from a missing one in upper and lower case only."""
    found = _names_by_lower_case(path.parent).get(path.name.lower())
    return f"not there, but {found} is" if found else "not there"


@lru_cache(maxsize=8)
def _names_by_lower_case(folder: Path) -> dict[str, str]:
    return {name.lower(): name for name in os.listdir(folder)} if folder.is_dir() else {}
