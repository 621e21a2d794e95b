"""Where everything lies in the output folder of a large prediction."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..inference.saving import LISTING, PREDICTIONS

__all__ = ["Places"]

ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}  # File names may be any bytes.


@dataclass(frozen=True)
class Places:
    """The files and folders below one output folder.

    Attributes:
        folder: the output folder, absolute.
    """

    folder: Path

    @property
    def manifest(self) -> Path:
        """What the run is of."""
        return self.folder / "manifest.json"

    @property
    def lists(self) -> Path:
        """Folder of the shards' lists of pictures."""
        return self.folder / "pictures"

    @property
    def shards(self) -> Path:
        """Folder of the finished shards; panopticapi looks for the png of `joined` in it."""
        return self.folder / PREDICTIONS

    @property
    def joined(self) -> Path:
        """The json of all shards together."""
        return self.folder / LISTING

    def shard(self, number: int) -> Path:
        """Return the folder of a shard, which is there once the shard is finished."""
        return self.shards / _name(number)

    def missing(self, number: int) -> list[int]:
        """Return which of a number of shards are not finished."""
        return [shard for shard in range(number) if not self.shard(shard).is_dir()]

    def forget_attempts(self) -> None:
        """Start counting anew how often shards are begun."""
        shutil.rmtree(self._attempts, ignore_errors=True)
        self._attempts.mkdir()

    def count_attempt(self, number: int) -> int:
        """Note that a shard is begun and return how often it was so far, in this run, by whatever process."""
        with (self._attempts / _name(number)).open("ab") as file:
            file.write(b".")
            return file.tell()

    @property
    def _attempts(self) -> Path:
        return self.folder / ".attempts"

    def read_list(self, number: int) -> list[Path]:
        """Return the pictures of a shard."""
        text = list_file(self.lists, number).read_text(**ENCODING)
        return [Path(line) for line in text.split("\n") if line]


def list_file(folder: Path, number: int) -> Path:
    """Return the list of a shard's pictures in a folder of lists."""
    return folder / f"{_name(number)}.txt"


def _name(number: int) -> str:
    return f"shard_{number:06d}"
