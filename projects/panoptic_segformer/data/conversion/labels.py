"""Read what other layouts have: maps of class numbers, lists of classes, folders of pictures.

Shape legend: H, W picture size.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..reading import read_categories

__all__ = ["files_below", "read_classes", "read_labels"]

# Pillow's modes whose pixels are the numbers of the file; those of a palette are places in it.
_NUMBERS = ("L", "P", "I", "I;16", "I;16B")
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_labels(path: Path) -> np.ndarray:
    """Return a map of numbers (H, W) int32, of 8 or 16 bits in the file.

    Raises: FileNotFoundError: if there is none. ValueError: if it can't be read or has colours.
    """
    try:
        with Image.open(path) as image:
            mode, numbers = image.mode, np.asarray(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} does not exist: every picture needs its labels, complete the folder"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} can't be read ({error}): copy it again") from error
    if mode not in _NUMBERS:
        raise ValueError(f"{path} has pixels of mode {mode}: expected one number per pixel (a grey or palette png)")
    return numbers.astype(np.int32)


def read_classes(path: str | Path) -> list[dict[str, Any]]:
    """Return the classes of a json with 'categories' (id, name, isthing), sorted by id; any panoptic json will do.

    Raises: FileNotFoundError: if there is none. ValueError: if it has none, or two share an id or a name.
    """
    categories = read_categories(path)
    names = [category["name"] for category in categories]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has several categories called {', '.join(repeated)}: give each its own name")
    return categories


def files_below(folder: Path, endings: Container[str] = PICTURES) -> list[str]:
    """Return the names of the files with some endings below a folder, sorted, with / between folders.

    Hidden ones are left out: those of archives made on a Mac look like pictures and are none.
    Raises: FileNotFoundError: if there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist: correct the path")
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in endings)
    return sorted(path.as_posix() for path in paths if not path.name.startswith("."))
