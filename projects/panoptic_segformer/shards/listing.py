"""Which pictures are predicted, in which shards: a list that is written as it is read, however long it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..inference.sources import PICTURE_SUFFIXES, files_of
from .places import ENCODING, list_file

__all__ = ["Listing", "pictures_of", "write_lists"]

LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class Listing:
    """What a list of pictures is known by.

    Attributes:
        number: how many pictures it has.
        sha256: hash of their paths in their order.
        root: the folder that all of them lie below.
        in_dataset: whether each is a picture of the dataset, none twice.
    """

    number: int
    sha256: str
    root: Path
    in_dataset: bool


def pictures_of(inputs: Sequence[str]) -> Iterator[str]:
    """Yield the absolute paths of the pictures that inputs stand for, in their order, each once.

    Args:
        inputs: pictures, folders (their own pictures, not their sub-folders'), glob patterns, and text files (.txt)
            with a path a line.
    Raises: FileNotFoundError: if an input yields no picture. ValueError: if a path has a line break in it.
    """
    seen: set[str] = set()
    for item in inputs:
        is_list = item.lower().endswith(LIST_SUFFIX) and os.path.isfile(item)
        for path in _lines(item) if is_list else files_of(item, PICTURE_SUFFIXES):
            path = os.path.abspath(path)
            if "\n" in path or "\r" in path:
                raise ValueError(f"the path {path!r} has a line break: rename the file")
            if path not in seen:
                seen.add(path)
                yield path


def _lines(path: str) -> Iterator[str]:
    with open(path, **ENCODING) as file:
        lines = (line.rstrip("\n") for line in file)
        yield from (line for line in lines if line.strip())


def write_lists(folder: Path, pictures: Iterable[str], shard_size: int, dataset: Collection[str]) -> Listing:
    """Write the shards' lists into a folder and return what they are known by.

    Args:
        folder: empty.
        pictures: absolute paths.
        shard_size: pictures of a shard.
        dataset: file names of the dataset's pictures.
    Raises: ValueError: if there is no picture.
    """
    pictures, digest, root, number = iter(pictures), hashlib.sha256(), "", 0
    rest, in_dataset = set(dataset), True
    shard = 0
    while paths := list(islice(pictures, shard_size)):
        text = "".join(f"{path}\n" for path in paths)
        list_file(folder, shard).write_text(text, **ENCODING)
        digest.update(text.encode(**ENCODING))
        for path in paths:
            root = os.path.dirname(path) if not root else _common(root, path)
            name = os.path.basename(path)
            in_dataset = in_dataset and name in rest
            rest.discard(name)
        number, shard = number + len(paths), shard + 1
    if not number:
        raise ValueError("the inputs list no picture: give others")
    return Listing(number, digest.hexdigest(), Path(root), in_dataset)


def _common(root: str, path: str) -> str:
    """Return the folder that a folder and a path have in common."""
    return root if path.startswith(root.rstrip(os.sep) + os.sep) else os.path.commonpath([root, os.path.dirname(path)])
