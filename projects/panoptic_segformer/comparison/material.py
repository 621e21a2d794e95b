"""The pictures of a comparison and their truth, checked before any model runs.

Shape legend: H, W size of a picture.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.reading import read_picture
from ..evaluation.truth import PanopticTruth
from ..inference.sources import input_files
from .results import Category, Picture, Prediction
from .spec import ComparisonSpec, DatasetSpec, closest

__all__ = ["Material", "collect_material", "describe_some", "picture_names"]

logger = logging.getLogger(__name__)

SHOWN_REASONS = 3


@dataclass(frozen=True)
class Material:
    """What all models see.

    Attributes:
        pictures: in their order; all of them can be read.
        truth: of exactly these pictures; None without one.
        left_out: why other pictures are not among them, one line each.
        description: of the dataset or the number of pictures, in words.
    """

    pictures: Sequence[Picture]
    truth: PanopticTruth | None
    left_out: Sequence[str]
    description: str

    @property
    def categories(self) -> list[Category]:
        """The classes of the truth, by id; none without a truth."""
        records = self.truth.categories if self.truth else []
        return [
            Category(record["id"], record["name"], bool(record["isthing"]), tuple(record["color"]))
            for record in records
        ]

    def truth_of(self, picture: Picture) -> Prediction | None:
        """Return the truth of a picture, its crowds included, with areas counted in the png; None without one.

        Raises: FileNotFoundError, ValueError: if the png is missing, damaged or contradicts the json.
        """
        if self.truth is None:
            return None
        segment_ids, areas = self.truth.segment_ids(picture.image_id), self.truth.segment_areas(picture.image_id)
        things = self.truth.thing_ids
        segments = [
            {
                "id": segment["id"],
                "category_id": segment["category_id"],
                "isthing": segment["category_id"] in things,
                "score": None,
                "area": areas[segment["id"]],
                "iscrowd": segment["iscrowd"],
            }
            for segment in self.truth.annotations[picture.image_id]["segments_info"]
        ]
        return Prediction(segment_ids, segments)


def collect_material(spec: ComparisonSpec) -> Material:
    """Return the pictures of a comparison; those that can't be read are left out with a message.

    Raises: FileNotFoundError, ValueError: if the dataset is unknown, its json or png are missing, damaged or contradict
        each other, or no picture is left.
    """
    if spec.dataset is None:
        files = input_files(spec.pictures)
        pictures = [Picture(path, name) for path, name in zip(files, picture_names(files), strict=True)]
        truth, description = None, "pictures without truth"
    else:
        pictures, truth, description = _dataset_pictures(spec.dataset)
    readable, left_out = [], []
    for picture in pictures:
        try:
            size = read_picture(picture.path, "RGB").shape[:2]
        except (FileNotFoundError, ValueError) as error:
            left_out.append(str(error))
            continue
        if truth:
            _check_truth(truth, picture, size)
        readable.append(picture)
    if not readable:
        raise ValueError(f"none of the {len(pictures)} pictures can be read, the first: {left_out[0]}")
    if left_out:
        logger.error("%d of %d pictures are left out: %s", len(left_out), len(pictures), describe_some(left_out))
    if truth:
        ids = [picture.image_id for picture in readable]
        images, annotations = ({id_: table[id_] for id_ in ids} for table in (truth.images, truth.annotations))
        truth = replace(truth, images=images, annotations=annotations)
    return Material(readable, truth, left_out, description)


def describe_some(reasons: Sequence[str]) -> str:
    """Return the first of some reasons in one line, and how many more there are: a wrong path spoils thousands."""
    more = f" and {len(reasons) - SHOWN_REASONS} more" if len(reasons) > SHOWN_REASONS else ""
    return "; ".join(reasons[:SHOWN_REASONS]) + more


def picture_names(files: Iterable[str | Path]) -> list[str]:
    """Return a name for each file that differs from all others in more than case: its stem, with a number if needed."""
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        stem = name = Path(file).stem
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def _dataset_pictures(dataset: DatasetSpec) -> tuple[list[Picture], PanopticTruth, str]:
    images, panoptic_json, panoptic_png = _registered(dataset.name) if dataset.name else _paths(dataset)
    truth = PanopticTruth.of_files(panoptic_json, panoptic_png)
    if not truth.annotations:
        raise ValueError(f"{panoptic_json} lists no annotated pictures ('annotations' is empty): nothing to compare on")
    records: list[dict[str, Any]] = [truth.images[id_] for id_ in truth.annotations][: dataset.limit]
    names = picture_names(record["file_name"] for record in records)
    pictures = [
        Picture(images / record["file_name"], name, record["id"]) for record, name in zip(records, names, strict=True)
    ]
    return pictures, truth, dataset.name or str(panoptic_json)


def _registered(name: str) -> tuple[Path, Path, Path]:
    """Return picture folder, json and png folder of a dataset that is registered."""
    if name not in DatasetCatalog.list():
        raise ValueError(
            f"dataset {name!r} is not registered with Detectron2{closest(name, DatasetCatalog.list())}: give the paths "
            "images, panoptic_json and panoptic_png instead"
        )
    metadata = MetadataCatalog.get(name)
    keys = ("image_root", "panoptic_json", "panoptic_root")
    if missing := [key for key in keys if metadata.get(key) is None]:
        raise ValueError(f"dataset {name!r} has no panoptic truth, its metadata lacks {', '.join(missing)}")
    images, panoptic_json, panoptic_png = (Path(metadata.get(key)) for key in keys)
    return images, panoptic_json, panoptic_png


def _paths(dataset: DatasetSpec) -> tuple[Path, Path, Path]:
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    words = (dataset.images, dataset.panoptic_json, dataset.panoptic_png)
    images, panoptic_json, panoptic_png = (root / Path(word).expanduser() for word in words)
    return images, panoptic_json, panoptic_png


def _check_truth(truth: PanopticTruth, picture: Picture, size: tuple[int, int]) -> None:
    image = truth.images[picture.image_id]
    if size != (image["height"], image["width"]):
        raise ValueError(
            f"picture {picture.path} has (height, width) {size}, {truth.json_path} says "
            f"{(image['height'], image['width'])}: use the pictures that the truth was made for"
        )
    truth.segment_ids(picture.image_id)  # Raises where json and png contradict each other.
