"""Run a predictor over picture files and write what it saw as overlays.

One picture is held at a time, so folders of any size fit into memory; a broken file does not stop the rest.
Shape legend: H, W size of a picture.
"""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..data.reading import read_picture
from ..visualization import draw_panoptic, write_picture

if TYPE_CHECKING:
    from ..data.categories import Categories

__all__ = ["PICTURE_SUFFIXES", "input_files", "output_files", "predict_files"]

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
JPEG_SUFFIXES = frozenset({".jpeg", ".jpg"})


def input_files(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the picture files that the inputs stand for, in their order, each once.

    Args:
        inputs: files, folders (their own pictures, not their sub-folders') and glob patterns.

    Raises: FileNotFoundError: if one of the inputs yields no picture (names it).
    """
    found: dict[str, Path] = {}
    for item in inputs:
        for path in _files_of(str(item)):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _files_of(item: str) -> list[Path]:
    path = Path(item)
    if path.is_file():  # Before the glob: "scan[1].jpg" is a name as well as a pattern.
        return [path]
    if path.is_dir():
        paths: Iterable[Path] = path.iterdir()
        problem = f"folder {item} has no pictures"
    elif glob.has_magic(item):
        paths = map(Path, glob.glob(item, recursive=True))
        problem = f"no picture matches {item}"
    else:
        raise FileNotFoundError(f"input {item} does not exist: give a picture, a folder or a glob pattern")
    pictures = sorted(
        path
        for path in paths
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not pictures:
        raise FileNotFoundError(f"{problem}: files that end in {', '.join(sorted(PICTURE_SUFFIXES))} are read")
    return pictures


def output_files(files: Sequence[Path], output_dir: Path) -> list[Path]:
    """Return where the overlay of each file goes: under its stem, unless stems clash.

    Those that clash get their folder's name in front, and a number if that is not enough.
    JPEG pictures get a JPEG overlay, all others PNG.

    Raises: ValueError: if an overlay would replace one of the pictures.
    """
    stems = Counter(file.stem.lower() for file in files)
    taken: set[str] = set()
    outputs = []
    for file in files:
        clashes = stems[file.stem.lower()] > 1
        base = f"{file.resolve().parent.name}_{file.stem}" if clashes else file.stem
        name, number = base, 1
        while name.lower() in taken:  # Folders of one name in different places, or a.jpg beside a.png.
            number += 1
            name = f"{base}_{number}"
        taken.add(name.lower())
        outputs.append(output_dir / f"{name}{'.jpg' if file.suffix.lower() in JPEG_SUFFIXES else '.png'}")
    replaced = {file.resolve() for file in files} & {output.resolve() for output in outputs}
    if replaced:
        raise ValueError(f"the overlay of {min(replaced)} would replace it: choose another folder than {output_dir}")
    return outputs


def predict_files(
    predictor: Callable[[np.ndarray], dict[str, Any]],
    files: Sequence[Path],
    output_dir: Path,
    categories: Categories,
) -> list[Path]:
    """Write an overlay of every file's panoptic result and return the files that are left out.

    Those are the files that can't be read and those that the predictor refuses with a ValueError.

    Args:
        predictor: takes (H, W, 3) uint8 BGR and returns `panoptic_seg`, as DefaultPredictor does.
        files: pictures.
        output_dir: made if it is missing.
        categories: classes of the dataset that the model was trained on.

    Raises: ValueError: if an overlay would replace one of the pictures, or the result has no `panoptic_seg`.
    """
    outputs = output_files(files, output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    left_out = []
    with logging_redirect_tqdm([logging.getLogger(__package__.partition(".")[0])]):
        for file, output in zip(tqdm(files, unit="picture"), outputs, strict=True):
            try:
                image = read_picture(file, "RGB")
                result = predictor(np.ascontiguousarray(image[..., ::-1]))
            except (FileNotFoundError, ValueError) as error:
                logger.error("%s is left out: %s", file, error)
                left_out.append(file)
                continue
            if "panoptic_seg" not in result:
                raise ValueError(
                    f"the model returns {sorted(result)} but no panoptic_seg: switch its panoptic results on "
                    "(MODEL.PANOPTIC_SEGFORMER.TEST.PANOPTIC_ON; other models have keys of their own)"
                )
            panoptic_seg, segments_info = result["panoptic_seg"]
            write_picture(draw_panoptic(image, panoptic_seg, segments_info, categories), output)
    return left_out
