"""What a large prediction is of. A later run goes on with it only if it is of the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..data.reading import read_json
from ..writing import whole_file

__all__ = ["Manifest", "lasting_config"]

SHOWN = 5


@dataclass(frozen=True)
class Manifest:
    """All that the predictions depend on.

    Attributes:
        pictures: number of pictures.
        pictures_sha256: hash of their list.
        root: folder that file names start at.
        uses_dataset_ids: whether pictures have the ids of the dataset's json; else they are counted from 1.
        shard_size: pictures of a shard, the last one may have fewer.
        batch_size: pictures that run together at most.
        weights_sha256: hash of the checkpoint.
        config: of the model, without device and paths of output and weights.
    """

    pictures: int
    pictures_sha256: str
    root: str
    uses_dataset_ids: bool
    shard_size: int
    batch_size: int
    weights_sha256: str
    config: dict[str, Any]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.pictures // self.shard_size)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Return the manifest of a file.

        Raises: FileNotFoundError: if there is none. ValueError: if it is no manifest.
        """
        content = read_json(path)
        try:
            return cls(**content)
        except TypeError as error:  # It is no object, or has other keys.
            raise ValueError(f"{path} is no manifest of `panseg predict-many`: give another --output") from error

    def settle(self, path: Path) -> None:
        """Write the manifest, or check that the one that is there is equal.

        Raises: ValueError: if it is not; names what differs.
        """
        if not path.exists():
            with whole_file(path) as partial:
                partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
            return
        then, now = (dict(_leaves(asdict(one))) for one in (Manifest.read(path), self))
        keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        if keys:
            shown = "; ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in keys[:SHOWN])
            more = f"; and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            raise ValueError(
                f"{path.parent} has the predictions of another run: {shown}{more}. Give what was given then to go on "
                "with it, or another --output"
            )


def lasting_config(cfg: CfgNode) -> dict[str, Any]:
    """Return a config as plain values, without what may differ between runs that predict the same."""
    content = yaml.safe_load(cfg.dump())
    content.pop("OUTPUT_DIR")
    for key in ("DEVICE", "WEIGHTS"):
        content["MODEL"].pop(key)
    return json.loads(json.dumps(content))  # As it is read again.


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
