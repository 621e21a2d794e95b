"""Predictions and costs on disk, each under a key that changes with everything that it depends on.

A prediction is a png in COCO-panoptic form and a json with its segments and instances beside it. Files appear when
they are complete; what is damaged all the same counts as missing. Shape legend: H, W size of the picture.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image

from ..hashing import file_digest
from ..writing import whole_file
from .results import Prediction

__all__ = ["PredictionCache", "code_digest", "digest_of", "png_bytes"]

# Endings of files that a project's results depend on: its code, operators that it compiled included.
CODE_ENDINGS = frozenset({".py", ".so", ".pyd"})


def digest_of(*parts: Any) -> str:
    """Return a sha256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def code_digest(folders: Iterable[str | Path]) -> str:
    """Return a sha256 of all code in some folders and below them, wherever the folders lie."""
    files = [
        (str(path.relative_to(folder)), file_digest(path))
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix in CODE_ENDINGS and path.is_file()
    ]
    return digest_of(files)


def png_bytes(segment_ids: np.ndarray) -> bytes:
    """Return segment ids (H, W) as a png in COCO-panoptic form."""
    stream = io.BytesIO()
    Image.fromarray(id2rgb(segment_ids)).save(stream, format="PNG")
    return stream.getvalue()


class PredictionCache:
    """A folder of predictions and costs."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def write(self, key: str, prediction: Prediction) -> None:
        """Keep a prediction."""
        png = png_bytes(prediction.segment_ids)
        path = self._path(key, ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_bytes(png)
        content = {
            "png": hashlib.sha256(png).hexdigest(),
            "segments": prediction.segments,
            "instances": prediction.instances,
        }
        self.write_record(key, content)

    def read(self, key: str) -> Prediction | None:
        """Return a prediction; None if it is not there or damaged."""
        record = self.read_record(key)
        path = self._path(key, ".png")
        if record is None or not path.is_file():
            return None
        png = path.read_bytes()
        if record.get("png") != hashlib.sha256(png).hexdigest():
            return None
        colors = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        return Prediction(rgb2id(colors).astype(np.int32), record["segments"], record["instances"])

    def write_record(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep plain values."""
        path = self._path(key, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record)
        with whole_file(path) as partial:
            partial.write_text(json.dumps({"sha256": digest_of(text), "content": text}), encoding="utf-8")

    def read_record(self, key: str) -> dict[str, Any] | None:
        """Return plain values; None if they are not there or damaged."""
        try:
            whole = json.loads(self._path(key, ".json").read_text(encoding="utf-8"))
            intact = whole["sha256"] == digest_of(whole["content"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return json.loads(whole["content"]) if intact else None

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / f"{key}{suffix}"
