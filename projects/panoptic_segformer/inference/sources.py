"""What to predict and where results go: the files that inputs stand for, and names for what is made of them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Inputs",
    "files_of",
    "input_files",
    "output_files",
    "output_names",
    "output_suffix",
    "sort_inputs",
]

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
JPEG_SUFFIXES = frozenset({".jpeg", ".jpg"})


@dataclass(frozen=True)
class Inputs:
    """What inputs stand for, each kind in its order and each once.

    Attributes:
        pictures: files.
        videos: files.
        cameras: numbers.
    """

    pictures: list[Path]
    videos: list[Path]
    cameras: list[int]


def sort_inputs(inputs: Sequence[str | Path]) -> Inputs:
    """Return the pictures, videos and cameras that inputs stand for.

    Args:
        inputs: files, folders, glob patterns, and numbers of cameras (unless there is a file of that name).
    Raises: FileNotFoundError: as `input_files`.
    """
    cameras = [item for item in map(str, inputs) if item.isdecimal() and not Path(item).exists()]
    rest = [item for item in inputs if str(item) not in cameras]
    files = input_files(rest, PICTURE_SUFFIXES | VIDEO_SUFFIXES)
    pictures, videos = ([file for file in files if _is_video(file) is wanted] for wanted in (False, True))
    return Inputs(pictures, videos, list(dict.fromkeys(map(int, cameras))))


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def input_files(inputs: Sequence[str | Path], suffixes: Collection[str] = PICTURE_SUFFIXES) -> list[Path]:
    """Return the files that the inputs stand for, in their order, each once.

    Args:
        inputs: files, folders (their own pictures, not their sub-folders') and glob patterns.
        suffixes: endings, in lower case, of the files that are taken from folders and patterns.

    Raises: FileNotFoundError: if one of the inputs yields no file (names it).
    """
    found: dict[str, Path] = {}
    for item in inputs:
        for path in files_of(str(item), suffixes):
            found.setdefault(os.path.abspath(path), Path(path))
    return list(found.values())


def files_of(item: str, suffixes: Collection[str] = PICTURE_SUFFIXES) -> list[str]:
    """Return the files that one input stands for, as `input_files` does: as texts, millions of which fit into memory.

    Raises: FileNotFoundError: as there.
    """
    if os.path.isfile(item):  # Before the glob: "scan[1].jpg" is a name as well as a pattern.
        return [item]
    if os.path.isdir(item):
        with os.scandir(item) as entries:
            paths = [entry.path for entry in entries if _is_wanted(entry.name, suffixes) and entry.is_file()]
        problem = f"folder {item} has no pictures"
    elif glob.has_magic(item):
        found = glob.iglob(item, recursive=True)
        paths = [path for path in found if _is_wanted(os.path.basename(path), suffixes) and os.path.isfile(path)]
        problem = f"no picture matches {item}"
    else:
        raise FileNotFoundError(f"input {item} does not exist: give a file, a folder or a glob pattern")
    pictures = sorted(paths)
    if not pictures:
        raise FileNotFoundError(f"{problem}: files that end in {', '.join(sorted(suffixes))} are read")
    return pictures


def _is_wanted(name: str, suffixes: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")


def output_names(files: Sequence[Path]) -> list[str]:
    """Return a name for what is made of each file: its stem, unless stems clash.

    Those that clash get their folder's name in front, and a number if that is not enough. Stems that are dots alone
    would mean folders: they become "picture".
    """
    stems = Counter(file.stem.lower() for file in files)
    taken: set[str] = set()
    names = []
    for file in files:
        clashes = stems[file.stem.lower()] > 1
        stem = file.stem if file.stem.strip(".") else "picture"
        base = f"{file.resolve().parent.name}_{stem}" if clashes else stem
        name, number = base, 1
        while name.lower() in taken:  # Folders of one name in different places, or a.jpg beside a.png.
            number += 1
            name = f"{base}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def output_files(files: Sequence[Path], output_dir: Path) -> list[Path]:
    """Return where the drawing of each file goes, named by `output_names`.

    JPEG pictures get a JPEG drawing, videos MP4, all others PNG.

    Raises: ValueError: if a drawing would replace one of the files.
    """
    names = output_names(files)
    outputs = [output_dir / f"{name}{output_suffix(file)}" for name, file in zip(names, files, strict=True)]
    replaced = {file.resolve() for file in files} & {output.resolve() for output in outputs}
    if replaced:
        raise ValueError(f"the drawing of {min(replaced)} would replace it: choose another folder than {output_dir}")
    return outputs


def output_suffix(file: Path) -> str:
    """Return the ending of a file's drawing."""
    if _is_video(file):
        return ".mp4"
    return ".jpg" if file.suffix.lower() in JPEG_SUFFIXES else ".png"
