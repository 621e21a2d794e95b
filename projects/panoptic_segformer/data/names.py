"""File names that come out of files: they may say anything."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

__all__ = ["leaves_folder"]


def leaves_folder(name: str) -> bool:
    """Return whether a name that is meant inside a folder is absolute or has "..", on any system."""
    return any(bool(path.anchor) or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))
