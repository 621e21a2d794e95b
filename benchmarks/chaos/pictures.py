"""Datasets with broken files: the training stops and names the file, or leaves it out and says it once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from trainings import FINAL, Row, config, forget_scenes, run, train

# The picture that is broken, of eight.
STEM = "000003"


def break_pictures(folder: Path, scenes: Path) -> list[Row]:
    """Train on scenes of which one is broken, in both modes."""
    stops, skips = [], []
    for name, damage in DAMAGES.items():
        root = folder / f"scenes_{name.replace(' ', '_')}"
        shutil.copytree(scenes, root)
        train_root = root / "synthetic_scenes/train"
        damage(train_root)
        for mode, losses in (("stop", stops), ("skip", skips)):
            lost = _train(folder / f"{root.name}_{mode}", root, mode)
            losses += [f"{name}: {lost}"] if lost else []
    kinds = f"one broken file of eight pictures ({', '.join(DAMAGES)})"
    return [
        Row(f"{kinds}, default", len(DAMAGES), "stops, and the message names the file", stops),
        Row("the same, DATALOADER.BROKEN_PICTURES skip", len(DAMAGES), "said once, trained to the end", skips),
    ]


def _train(output: Path, root: Path, mode: str) -> str:
    """Return what went wrong, "" if nothing."""
    log = output.with_suffix(".log")

    def work() -> None:
        forget_scenes()
        os.environ["DETECTRON2_DATASETS"] = str(root)
        train(config(output, DATALOADER__BROKEN_PICTURES=mode))

    ended = run(work, log)
    if mode == "stop":
        return "" if ended.code and STEM in ended.text.rpartition("Error: ")[2] else f"exit code {ended.code}"
    times = ended.text.count("left out broken picture")
    is_well = ended.code == 0 and times == 1 and (output / FINAL).is_file()
    return "" if is_well else f"exit code {ended.code}, said {times} times"


def _image(root: Path) -> Path:
    return root / f"images/{STEM}.jpg"


def _png(root: Path) -> Path:
    return root / f"panoptic_png/{STEM}.png"


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _resize(path: Path) -> None:
    with Image.open(path) as image:
        smaller = image.resize((image.width // 2, image.height))
    smaller.save(path)


def _strange_ids(path: Path) -> None:
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[:4, :4] = 99
    Image.fromarray(pixels).save(path)


def _swap_segments(root: Path) -> None:
    """Give the picture the png of another one."""
    others = [path for path in (root / "panoptic_png").iterdir() if path.stem != STEM]
    shutil.copy(min(others), _png(root))


def _wrong_size_in_json(root: Path) -> None:
    path = root / "panoptic.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        if STEM in image["file_name"]:
            image["height"] += 1
    path.write_text(json.dumps(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "picture missing": lambda root: _image(root).unlink(),
    "picture empty": lambda root: _image(root).write_bytes(b""),
    "picture cut off": lambda root: _cut(_image(root)),
    "text as picture": lambda root: _image(root).write_text("404 not found"),
    "picture of another size": lambda root: _resize(_image(root)),
    "folder as picture": lambda root: (_image(root).unlink(), _image(root).mkdir()),
    "png missing": lambda root: _png(root).unlink(),
    "png cut off": lambda root: _cut(_png(root)),
    "png of another size": lambda root: _resize(_png(root)),
    "png with strange ids": lambda root: _strange_ids(_png(root)),
    "png of another picture": _swap_segments,
    "other size in the json": _wrong_size_in_json,
}
