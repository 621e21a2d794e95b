"""Compare and check what converters write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_segformer.data.conversion import Output
from panoptic_segformer.data.datasets import PanopticPaths
from panoptic_segformer.data.validation import Severity, validate


def truth_of(json_path: Path, png_root: Path) -> dict[str, set[tuple[str, int, bytes]]]:
    """Name, crowd flag and mask of every segment by picture name: what remains when ids are forgotten."""
    content = json.loads(json_path.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    classes = {category["id"]: category["name"] for category in content["categories"]}
    found = {}
    for annotation in content["annotations"]:
        ids = rgb2id(np.asarray(Image.open(png_root / annotation["file_name"])))
        segments = [(classes[s["category_id"]], s["iscrowd"], ids == s["id"]) for s in annotation["segments_info"]]
        assert np.array_equal(sum(mask.astype(int) for *_, mask in segments), ids > 0)
        found[names[annotation["image_id"]]] = {(name, crowd, mask.tobytes()) for name, crowd, mask in segments}
    return found


def output(folder: Path, **options: Any) -> Output:
    return Output(folder / "new.json", folder / "new_png", **options)


def faults(made: Output, images: Path) -> dict[str, int]:
    """Errors and warnings that `panseg validate` finds, by name."""
    found = validate(PanopticPaths(str(images), str(made.json), str(made.png)))
    return {fault.name: found.tally.counts[fault.name] for fault in found.found if fault.severity is not Severity.NOTE}
