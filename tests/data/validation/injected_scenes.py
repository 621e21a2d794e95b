"""Synthetic scenes, and a way to damage them for every class of faults."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image

from panoptic_segformer.data.datasets import PanopticPaths
from panoptic_segformer.data.validation import Validation, validate

BIRD, SKY = 1, 7  # categories: a thing, a stuff class
NEW_ID = 0x010203


class Scenes:
    """A dataset that a test may damage: change `content`, or files through the methods, then `validate`."""

    def __init__(self, source: Path, root: Path) -> None:
        shutil.copytree(source, root)
        self.root = root
        self.json_path = root / "panoptic.json"
        self.content: dict[str, Any] = json.loads(self.json_path.read_text())
        self.text: str | None = None  # in the place of the content

    @property
    def paths(self) -> PanopticPaths:
        return PanopticPaths(str(self.root / "images"), str(self.json_path), str(self.root / "panoptic_png"))

    def image(self, k: int) -> dict[str, Any]:
        return self.content["images"][k]

    def annotation(self, k: int) -> dict[str, Any]:
        return self.content["annotations"][k]

    def segments(self, k: int) -> list[dict[str, Any]]:
        return self.annotation(k)["segments_info"]

    def stuff(self, k: int) -> dict[str, Any]:
        """The picture's last segment of a stuff class."""
        return self.segments(k)[-1]

    def picture(self, k: int) -> Path:
        return self.root / "images" / self.image(k)["file_name"]

    def png(self, k: int) -> Path:
        return self.root / "panoptic_png" / self.annotation(k)["file_name"]

    def ids(self, k: int) -> np.ndarray:
        return rgb2id(np.asarray(Image.open(self.png(k)).convert("RGB")))

    def write_ids(self, k: int, ids: np.ndarray) -> None:
        Image.fromarray(id2rgb(ids)).save(self.png(k))

    def save_picture(self, k: int, change: Callable[[Image.Image], Image.Image], **options: Any) -> None:
        """Change a picture; it is written as png under its old name, as Pillow looks at the content only."""
        picture = change(Image.open(self.picture(k)).convert("RGB"))
        picture.save(self.picture(k), format=options.pop("format", "PNG"), **options)

    def save_json(self) -> None:
        self.json_path.write_text(json.dumps(self.content) if self.text is None else self.text)

    def validate(self, **options: Any) -> Validation:
        self.save_json()
        return validate(self.paths, **options)

    def counts(self) -> Counter[str]:
        return self.validate().tally.counts


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def split_stuff(scenes: Scenes, k: int) -> None:
    """Give the left half of a stuff segment an id of its own, in json and png, all numbers right."""
    segment, ids = scenes.stuff(k), scenes.ids(k)
    mask = ids == segment["id"]
    columns = np.flatnonzero(mask.any(axis=0))
    half = mask & (np.arange(mask.shape[1]) < (columns[0] + columns[-1] + 1) // 2)
    ids[half] = NEW_ID
    scenes.write_ids(k, ids)
    scenes.segments(k).append({**segment, "id": NEW_ID})
    for entry in (segment, scenes.segments(k)[-1]):
        rows, columns = np.nonzero(ids == entry["id"])
        entry["area"] = len(rows)
        left, top = columns.min(), rows.min()
        entry["bbox"] = [int(v) for v in (left, top, columns.max() - left + 1, rows.max() - top + 1)]


def resize(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width // 2, picture.height))


def deep(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)


def widen(scenes: Scenes, k: int) -> None:
    """The picture gets wider, json and png stay."""
    scenes.save_picture(k, resize)


def grey_ids(scenes: Scenes, k: int) -> None:
    Image.open(scenes.png(k)).convert("L").save(scenes.png(k))


def palette_ids(scenes: Scenes, k: int) -> None:
    colors, index = np.unique(np.asarray(Image.open(scenes.png(k))).reshape(-1, 3), axis=0, return_inverse=True)
    height, width = scenes.ids(k).shape
    image = Image.fromarray(index.reshape(height, width).astype(np.uint8), "P")
    image.putpalette(colors.astype(np.uint8).tobytes())
    image.save(scenes.png(k))


def lossy_ids(scenes: Scenes, k: int) -> None:
    Image.open(scenes.png(k)).save(scenes.png(k), format="JPEG")


def small_ids(scenes: Scenes, k: int) -> None:
    scenes.write_ids(k, scenes.ids(k)[:-1])


def unknown_id(scenes: Scenes, k: int) -> None:
    """Void pixels get an id; as there may be none, those of a segment do, whose numbers are corrected."""
    ids, segment = scenes.ids(k), scenes.stuff(k)
    rows, columns = np.nonzero(ids == segment["id"])
    inside = len(rows) // 2
    ids[rows[inside], columns[inside]] = NEW_ID
    segment["area"] -= 1
    scenes.write_ids(k, ids)


def add_segment(scenes: Scenes, k: int, area: int) -> None:
    box = [0, 0, 1, 1]
    scenes.segments(k).append({"id": NEW_ID, "category_id": BIRD, "area": area, "bbox": box, "iscrowd": 0})


def turn_json(scenes: Scenes, k: int) -> None:
    """The picture is stored as json and png have it, but its EXIF tag turns it by a quarter."""
    scenes.save_picture(k, lambda picture: picture, format="JPEG", exif=exif(6))


def write_noise(path: Path) -> None:
    path.write_bytes(b"no picture at all " * 9)


# How to give picture k a fault of its own.
OF_PICTURES: dict[str, Callable[[Scenes, int], Any]] = {
    "picture-missing": lambda scenes, k: scenes.picture(k).unlink(),
    "picture-incomplete": lambda scenes, k: cut(scenes.picture(k)),
    "picture-unreadable": lambda scenes, k: write_noise(scenes.picture(k)),
    "png-missing": lambda scenes, k: scenes.png(k).unlink(),
    "png-incomplete": lambda scenes, k: cut(scenes.png(k)),
    "png-unreadable": lambda scenes, k: write_noise(scenes.png(k)),
    "png-lossy": lossy_ids,
    "png-mode-wrong": grey_ids,
    "png-mode-unusual": palette_ids,
    "picture-turned-sideways": turn_json,
    "picture-turned": lambda scenes, k: scenes.save_picture(k, lambda picture: picture, format="JPEG", exif=exif(3)),
    "size-of-picture": widen,
    "size-in-json": lambda scenes, k: scenes.image(k).update(height=7),
    "size-of-png": small_ids,
    "picture-deep": lambda scenes, k: scenes.save_picture(k, deep),
    "picture-clipped": lambda scenes, k: scenes.save_picture(k, lambda picture: picture.convert("F"), format="TIFF"),
    "picture-grey": lambda scenes, k: scenes.save_picture(k, lambda picture: picture.convert("L")),
    "picture-alpha": lambda scenes, k: scenes.save_picture(k, lambda picture: picture.convert("RGBA")),
    "picture-palette": lambda scenes, k: scenes.save_picture(k, lambda picture: picture.quantize(64)),
    "picture-mode-unusual": lambda scenes, k: scenes.save_picture(
        k, lambda picture: picture.convert("CMYK"), format="JPEG"
    ),
    "png-of-another-json": lambda scenes, k: scenes.write_ids(k, scenes.ids(k) + (scenes.ids(k) > 0)),
    "id-not-in-json": unknown_id,
    "segment-not-in-png": lambda scenes, k: add_segment(scenes, k, 5),
    "segment-empty": lambda scenes, k: add_segment(scenes, k, 0),
    "area-wrong": lambda scenes, k: scenes.stuff(k).update(area=scenes.stuff(k)["area"] + 1),
    "bbox-wrong": lambda scenes, k: scenes.stuff(k).update(bbox=[0, 0, 1, 1]),
    "area-missing": lambda scenes, k: scenes.stuff(k).pop("area"),
    "bbox-missing": lambda scenes, k: scenes.stuff(k).pop("bbox"),
    "stuff-twice": split_stuff,
    "crowd-on-stuff": lambda scenes, k: scenes.stuff(k).update(iscrowd=1),
    "segment-id-repeated": lambda scenes, k: scenes.segments(k).append(dict(scenes.segments(k)[-1])),
    "key-missing": lambda scenes, k: scenes.image(k).pop("height"),
    "value-wrong": lambda scenes, k: scenes.stuff(k).update(id="7"),
}


def remove_annotation(scenes: Scenes) -> None:
    scenes.png(0).unlink()
    del scenes.content["annotations"][0]


def remove_picture(scenes: Scenes) -> None:
    scenes.picture(0).unlink()
    del scenes.content["images"][0]


def empty_truth(scenes: Scenes) -> None:
    scenes.write_ids(0, np.zeros_like(scenes.ids(0)))
    scenes.segments(0).clear()


def share_picture(scenes: Scenes) -> None:
    """A new picture id with a truth of its own, but the file of the first."""
    annotation = {**scenes.annotation(0), "image_id": 99, "file_name": "99.png"}
    shutil.copy(scenes.png(0), scenes.root / "panoptic_png/99.png")
    scenes.content["images"].append({**scenes.image(0), "id": 99})
    scenes.content["annotations"].append(annotation)


def share_png(scenes: Scenes) -> None:
    shutil.copy(scenes.picture(0), scenes.root / "images/99.jpg")
    scenes.content["images"].append({**scenes.image(0), "id": 99, "file_name": "99.jpg"})
    scenes.content["annotations"].append({**scenes.annotation(0), "image_id": 99})


def annotate_twice(scenes: Scenes) -> None:
    shutil.copy(scenes.png(0), scenes.root / "panoptic_png/99.png")
    scenes.content["annotations"].append({**scenes.annotation(0), "file_name": "99.png"})


def list_twice(scenes: Scenes) -> None:
    shutil.copy(scenes.picture(0), scenes.root / "images/99.jpg")
    scenes.content["images"].append({**scenes.image(0), "file_name": "99.jpg"})


def absolute_name(scenes: Scenes) -> None:
    scenes.image(0)["file_name"] = str(scenes.picture(0).rename(scenes.root / "elsewhere.jpg"))


def reserve_name(scenes: Scenes) -> None:
    for k in range(len(scenes.content["annotations"])):
        for segment in scenes.segments(k):
            segment["category_id"] *= segment["category_id"] != SKY
    scenes.content["categories"][SKY - 1].update(id=0, name="things")


def write_text(scenes: Scenes, text: str) -> None:
    scenes.text = text


# How to give the dataset a fault that is counted once.
OF_DATASETS: dict[str, Callable[[Scenes], Any]] = {
    "picture-id-repeated": list_twice,
    "picture-annotated-twice": annotate_twice,
    "category-id-repeated": lambda scenes: scenes.content["categories"].append(
        {**scenes.content["categories"][0], "name": "another"}
    ),
    "category-name-repeated": lambda scenes: scenes.content["categories"][1].update(
        name=scenes.content["categories"][0]["name"]
    ),
    "category-name-reserved": reserve_name,
    "annotation-without-picture": remove_picture,
    "picture-without-annotation": remove_annotation,
    "category-unknown": lambda scenes: scenes.stuff(0).update(category_id=555),
    "picture-shared": share_picture,
    "png-shared": share_png,
    "name-outside-folder": absolute_name,
    "no-segment": empty_truth,
    "category-unused": lambda scenes: scenes.content["categories"].append(
        {"id": 555, "name": "unicorn", "isthing": 1, "color": [1, 2, 3]}
    ),
    "picture-not-named": lambda scenes: shutil.copy(scenes.picture(0), scenes.root / "images/more.jpg"),
    "png-not-named": lambda scenes: shutil.copy(scenes.png(0), scenes.root / "panoptic_png/more.png"),
}
