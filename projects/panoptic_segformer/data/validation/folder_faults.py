"""Faults of the folders as a whole: files that the json does not know."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets import PanopticPaths
from .faults import Faults, Finding, Severity
from .form_faults import Document, values

__all__ = ["FOLDER_FAULTS", "Folders"]

FOLDER_FAULTS: Faults[Folders] = Faults()


@dataclass(frozen=True)
class Folders:
    """The two folders of a dataset and the file names that its json has for them."""

    paths: PanopticPaths
    picture_names: frozenset[str]
    png_names: frozenset[str]

    @classmethod
    def of(cls, paths: PanopticPaths, document: Document) -> Folders:
        """Return the folders of a dataset."""
        return cls(paths, *(_names(document.entries(key)) for key in ("images", "annotations")))


@FOLDER_FAULTS.add(Severity.NOTE, "nothing, unless their annotations were lost")
def picture_not_named(folders: Folders) -> Iterator[Finding]:
    """A file in the folder of pictures is not named in the json."""
    yield from _unnamed(folders.paths.image_root, folders.picture_names)


@FOLDER_FAULTS.add(Severity.NOTE, "nothing, unless their annotations were lost")
def png_not_named(folders: Folders) -> Iterator[Finding]:
    """A file in the folder of png is not named in the json."""
    yield from _unnamed(folders.paths.panoptic_root, folders.png_names)


def _names(entries: Iterable[Any]) -> frozenset[str]:
    return frozenset(os.path.normpath(name) for name in values(entries, "file_name") if isinstance(name, str))


def _unnamed(folder: str, names: frozenset[str]) -> Iterator[Finding]:
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
