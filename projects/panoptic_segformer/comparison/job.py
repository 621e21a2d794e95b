"""What the comparison and the process of one model tell each other, as json files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..writing import whole_file
from .results import Category
from .spec import ModelSpec

__all__ = ["PROGRESS", "RESULT_FILE", "Job", "JobPicture", "JobResult"]

# Beside the job's file.
RESULT_FILE = "result.json"
# Lines of the process that start so are for the user of the comparison.
PROGRESS = "progress: "


@dataclass(frozen=True)
class JobPicture:
    """One picture: its file, its name in the comparison and the sha256 of the file's bytes."""

    path: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        model: which it runs.
        pictures: that it predicts, in their order.
        cache: folder of predictions and costs.
        device: "auto", "cpu" or "cuda".
        costs: whether costs are measured.
        runs: how often each timed picture is run.
        flops_size: height and width that FLOPs are counted at; None for the model's own size of the first picture.
    """

    model: ModelSpec
    pictures: Sequence[JobPicture]
    cache: str
    device: str = "auto"
    costs: bool = True
    runs: int = 3
    flops_size: tuple[int, int] | None = None

    def write(self, path: Path) -> None:
        """Write it as json."""
        _write(path, self)

    @classmethod
    def read(cls, path: Path) -> Job:
        """Return what `write` wrote."""
        record = _read(path)
        model = {key: tuple(value) if isinstance(value, list) else value for key, value in record["model"].items()}
        size = record["flops_size"]
        return cls(
            **{
                **record,
                "model": ModelSpec(**model),
                "pictures": [JobPicture(**picture) for picture in record["pictures"]],
                "flops_size": size and tuple(size),
            }
        )


@dataclass(frozen=True)
class JobResult:
    """What one process found.

    Attributes:
        error: what stopped it, in one line; the rest is empty then.
        keys: where the cache has each prediction, by the picture's name.
        categories: of the model, under the ids of its own dataset.
        costs: as in `ModelResult`.
        facts: as in `ModelResult`.
    """

    error: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    categories: Sequence[Category] = field(default_factory=list)
    costs: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it as json."""
        _write(path, self)

    @classmethod
    def read(cls, path: Path) -> JobResult:
        """Return what `write` wrote."""
        record = _read(path)
        categories = [Category(**{**entry, "color": tuple(entry["color"])}) for entry in record["categories"]]
        return cls(**{**record, "categories": categories})


def _write(path: Path, content: Job | JobResult) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(content)), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
