"""Decoded pictures and segments on a disk, for trainings that wait for the decoding of their data.

All loader processes share the files through the system's page cache. A file is used as long as those that it was made
from have the same size and time.
Shape legend: H, W picture size, N segments.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..writing import whole_file
from .segments import Segment

__all__ = ["Decoded", "DecodedCache"]

logger = logging.getLogger(__name__)

# Picture (H, W, 3) uint8, segment colours (H, W, 3) uint8, and the segments.
Decoded = tuple[np.ndarray, np.ndarray, list[Segment]]
_FILE_KEYS = ("file_name", "pan_seg_file_name", "sem_seg_file_name")


class DecodedCache:
    """What was decoded before, by dataset dict."""

    def __init__(self, folder: str | Path, image_format: str) -> None:
        """Take the folder, which is made when it is needed, and the order of the pictures' channels."""
        self.folder, self.image_format = Path(folder), image_format
        self._is_writable = True

    def get(self, entry: dict[str, Any], decode: Callable[[], Decoded]) -> Decoded:
        """Return what `decode` returns for a dataset dict, from the cache if it is there, otherwise putting it there.

        A cache that can't be written (a full disk) is said once, and costs time only.
        Raises: what `decode` raises.
        """
        path = self._path(entry)
        try:
            with np.load(path) as arrays:
                segments = [Segment(id_, category, bool(thing)) for id_, category, thing in arrays["segments"].tolist()]
                return arrays["image"], arrays["colors"], segments
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            decoded = decode()
        if self._is_writable:
            self._write(path, decoded)
        return decoded

    def _path(self, entry: dict[str, Any]) -> Path:
        described: dict[str, Any] = {"format": self.image_format, "segments": entry.get("segments_info")}
        if "annotations" in entry:
            described["annotations"] = repr(entry["annotations"])  # may hold arrays and enumerations
        for key in _FILE_KEYS:
            if key in entry:
                described[key] = _state(Path(entry[key]))
        name = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.npz"

    def _write(self, path: Path, decoded: Decoded) -> None:
        image, colors, segments = decoded
        records = np.array(segments, dtype=np.int64).reshape(-1, 3)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                np.savez(partial, image=image, colors=colors, segments=records)
        except OSError as error:
            self._is_writable = False
            logger.warning("decoded pictures are not kept in %s any more: %s", self.folder, error)


def _state(path: Path) -> list[Any]:
    """Return what changes when a file does; of one that is missing, its name."""
    try:
        status = path.stat()
    except OSError:
        return [str(path)]
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]
