"""Faults of the folders as a whole: files that the json does not know."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..datasets import PanopticPaths
from .faults import Faults, Finding, Severity
from .json_faults import Content

__all__ = ["FOLDER_FAULTS", "Folders"]

FOLDER_FAULTS: Faults[Folders] = Faults()


@dataclass(frozen=True)
class Folders:
    """The two folders of a dataset and the file names that its json has for them."""

    paths: PanopticPaths
    picture_names: frozenset[str]
    png_names: frozenset[str]

    @classmethod
    def of(cls, paths: PanopticPaths, content: Content) -> Folders:
        """Return the folders of a dataset."""
        pictures = frozenset(os.path.normpath(image["file_name"]) for image in content.images)
        pngs = frozenset(os.path.normpath(annotation["file_name"]) for annotation in content.annotations)
        return cls(paths, pictures, pngs)


@FOLDER_FAULTS.add(Severity.NOTE, "nothing to do, unless their annotations were lost")
def picture_not_named(folders: Folders) -> Iterator[Finding]:
    """A file in the folder of pictures is not named in the json."""
    yield from _unnamed(folders.paths.image_root, folders.picture_names)


@FOLDER_FAULTS.add(Severity.NOTE, "nothing to do, unless their annotations were lost")
def png_not_named(folders: Folders) -> Iterator[Finding]:
    """A file in the folder of png is not named in the json."""
    yield from _unnamed(folders.paths.panoptic_root, folders.png_names)


def _unnamed(folder: str, names: Iterable[str]) -> Iterator[Finding]:
    for path in sorted(_files(folder)):
        if path not in names:
            yield Finding(path)


def _files(folder: str) -> Iterator[str]:
    """Yield the files below a folder by their names relative to it, without hidden ones."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(Path(parent, name), folder)
