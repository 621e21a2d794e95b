"""Write synthetic scenes as a dataset in COCO-panoptic form, which the project trains and is tested on.

The same seed gives the same scenes; scene n does not depend on how many are written.
Reference: https://cocodataset.org/#format-data. Shape legend: H, W picture size.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image

from ...writing import whole_folder
from .scene import Scene, compose_scene
from .stuff import STUFF_NAMES
from .things import THING_NAMES

__all__ = ["CATEGORIES", "write_scenes"]

logger = logging.getLogger(__name__)

# Below this side, in pixels, things are too small to be told apart.
_MIN_SIDE = 64
_MADE_BY = "synthetic scenes of Panoptic SegFormer"
# To be raised with every change of the drawing, so that folders of older drawings are not taken for new ones.
_VERSION = 1

_COLORS = (
    (230, 60, 60), (240, 150, 40), (250, 220, 70), (170, 100, 50), (200, 80, 200), (120, 60, 160),
    (150, 200, 240), (120, 125, 145), (30, 110, 190), (80, 170, 70), (225, 205, 150), (160, 90, 80),
)  # fmt: skip

# As in COCO: ids from 1, things before stuff.
CATEGORIES: list[dict[str, Any]] = [
    {"id": number, "name": name, "isthing": int(name in THING_NAMES), "color": list(color)}
    for number, (name, color) in enumerate(zip(THING_NAMES + STUFF_NAMES, _COLORS, strict=True), start=1)
]


def write_scenes(folder: str | Path, num_scenes: int, seed: int, size: tuple[int, int] = (256, 320)) -> Path:
    """Write scenes to folder/images, folder/panoptic_png and folder/panoptic.json, and return the folder.

    A folder that holds just these scenes is used as it is, one that holds other synthetic scenes is replaced.

    Args:
        folder: where to write; appears only when it is complete.
        num_scenes: how many.
        seed: other seeds give other scenes.
        size: (height, width) in pixels.
    Raises: ValueError: if something else lies there, or the numbers make no scene.
    """
    folder = Path(folder)
    if num_scenes < 1 or min(size) < _MIN_SIDE:
        raise ValueError(
            f"{num_scenes} scenes of {size} pixels: give at least one of at least {_MIN_SIDE} x {_MIN_SIDE}"
        )
    recipe = {"description": _MADE_BY, "version": _VERSION, "num_scenes": num_scenes, "seed": seed, "size": [*size]}
    found = _found_recipe(folder)
    if found == recipe:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as draft:
        _write(draft, recipe)
    logger.info("wrote %d synthetic scenes to %s", num_scenes, folder)
    return folder


def _found_recipe(folder: Path) -> dict[str, Any] | None:
    """Return the recipe of the scenes in a folder, None if there is no folder or an empty one."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        recipe = json.loads((folder / "panoptic.json").read_text(encoding="utf-8"))["info"]
        if recipe["description"] == _MADE_BY:
            return recipe
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise ValueError(f"{folder} exists and holds no synthetic scenes: choose another folder or remove it")


def _write(folder: Path, recipe: dict[str, Any]) -> None:
    (folder / "images").mkdir()
    (folder / "panoptic_png").mkdir()
    images, annotations = [], []
    for number in range(1, recipe["num_scenes"] + 1):
        scene = compose_scene(np.random.default_rng([recipe["seed"], number]), tuple(recipe["size"]))
        name = f"{number:06d}"
        Image.fromarray(scene.image).save(folder / "images" / f"{name}.jpg", quality=95, subsampling=0)
        ids, infos = _segment_ids(scene)
        Image.fromarray(id2rgb(ids)).save(folder / "panoptic_png" / f"{name}.png")
        height, width = recipe["size"]
        images.append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": infos})
    content = {"info": recipe, "images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "panoptic.json").write_text(json.dumps(content), encoding="utf-8")


def _segment_ids(scene: Scene) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the id map (H, W) int64 whose colours look like the classes', and its segments_info."""
    by_name = {category["name"]: category for category in CATEGORIES}
    infos, ids = [], [0]
    for number, name in enumerate(scene.names, start=1):
        category = by_name[name]
        # Colours of classes differ by more than the number of segments, so no id appears twice.
        red, green, blue = category["color"]
        ids.append(rgb2id((red, green, blue + number)))
        mask = scene.segments == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        infos.append(
            {
                "id": ids[-1],
                "category_id": category["id"],
                "area": int(mask.sum()),
                "bbox": [int(value) for value in box],
                "iscrowd": 0,
            }
        )
    return np.asarray(ids)[scene.segments], infos
