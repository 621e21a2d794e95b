"""Files and folders that are either complete or not there."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["remove_partial", "whole_file", "whole_folder"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, and rename it to `path` at the end.

    After an error, `path` is as it was and the temporary file is gone. The folder must exist.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` to write into, and put it in the place of `path` at the end.

    After an error, `path` is as it was and the temporary folder is gone. The parent must exist. Where `path` is a link,
    the folder that it leads to is replaced.
    Raises: NotADirectoryError: if `path` is something else than a folder.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is no folder: give another name or remove it")
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            os.replace(path, old)  # a folder with content can't be replaced in one step
        os.replace(partial, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_partial(path: Path) -> None:
    """Remove what processes that were killed left beside a path; no other process may be writing it."""
    file = f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"
    folder = f".{glob.escape(path.name)}.*"
    olds = path.parent.glob(f"{folder}.old") if path.exists() else ()
    for left in (*path.parent.glob(file), *path.parent.glob(f"{folder}.partial"), *olds):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
