"""Pictures to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..writing import whole_file

__all__ = ["write_picture"]

JPEG_QUALITY = 92


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the path's ending.

    Raises: ValueError: if the ending stands for no format of pictures.
    """
    Image.init()
    if Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(
            f"{path} ends in {path.suffix!r}, which is no format that pictures are written in: try .png or .jpg"
        )
    with whole_file(path) as partial:
        Image.fromarray(picture).save(partial, quality=JPEG_QUALITY)
