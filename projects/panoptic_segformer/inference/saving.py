"""Predictions as files: in COCO-panoptic form, or a png per segment.

The first is what datasets have, so whatever reads these reads predictions: `panseg validate`, panopticapi.
Reference: https://cocodataset.org/#format-results, "Panoptic Segmentation". Shape legend: H, W picture size.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectron2.data import MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from ..data.reading import read_panoptic_json
from ..visualization import class_styles
from ..writing import whole_folder

if TYPE_CHECKING:
    from ..data.categories import Categories
    from .result import PanopticResult, ResultSegment

__all__ = [
    "LISTING",
    "PREDICTIONS",
    "MaskSaver",
    "PanopticSaver",
    "dataset_category_ids",
    "dataset_image_ids",
    "save_masks",
    "save_panoptic",
]

# In the folder of the predictions; panopticapi looks for the folder of a json under the json's name.
PREDICTIONS = "predictions"
LISTING = f"{PREDICTIONS}.json"
# In the folder of a picture's masks.
MASK_LISTING = "segments.json"


class PanopticSaver:
    """Writes a png of segment ids per picture, and at the end the json that lists them all.

    Attributes:
        failures: why pictures have no result, by file name; the json lists them where there are any.
    """

    def __init__(
        self,
        folder: Path,
        categories: Categories,
        category_ids: Mapping[tuple[bool, int], int],
        image_ids: Mapping[str, int],
        root: Path | None = None,
    ) -> None:
        """Start in an empty folder.

        Args:
            folder: receives predictions.json and the folder `predictions`.
            categories: the model's classes.
            category_ids: their ids in the dataset, by kind and contiguous id.
            image_ids: ids of the dataset's pictures by file name. They are used if all pictures are among them, each
                once; otherwise pictures are counted from 1.
            root: folder above all pictures that their file names in the json start at; None = names without folders.
        """
        self.folder, self.categories, self.root = folder, categories, root
        self.category_ids, self.image_ids = category_ids, image_ids
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}
        (folder / PREDICTIONS).mkdir()

    def add(self, file: Path, name: str, result: PanopticResult) -> None:
        """Write the png of a picture file under a name that no other has."""
        Image.fromarray(id2rgb(result.segment_ids)).save(self.folder / PREDICTIONS / f"{name}.png")
        height, width = result.segment_ids.shape
        file_name = file.name if self.root is None else file.relative_to(self.root).as_posix()
        self._images.append({"file_name": file_name, "height": height, "width": width})
        segments = [self._record(segment) for segment in result.segments]
        self._annotations.append({"file_name": f"{name}.png", "segments_info": segments})

    def _record(self, segment: ResultSegment) -> dict[str, Any]:
        left, top, right, bottom = segment.box
        return {
            "id": segment.id,
            "category_id": self.category_ids[segment.isthing, segment.category_id],
            "area": segment.area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
            "score": segment.score,
        }

    def finish(self) -> None:
        """Write the json."""
        ids = [self.image_ids.get(image["file_name"]) for image in self._images]
        if None in ids or len(set(ids)) < len(ids):
            ids = range(1, len(ids) + 1)
        content = {
            "images": [{"id": id_, **image} for id_, image in zip(ids, self._images, strict=True)],
            "annotations": [{"image_id": id_, **one} for id_, one in zip(ids, self._annotations, strict=True)],
            "categories": self._category_records(),
        }
        if self.failures:
            content["failures"] = [{"file_name": name, "reason": reason} for name, reason in self.failures.items()]
        (self.folder / LISTING).write_text(json.dumps(content) + "\n", encoding="utf-8")

    def _category_records(self) -> list[dict[str, Any]]:
        records = [
            {"id": self.category_ids[isthing, own], "name": style.name, "isthing": int(isthing), "color": style.color}
            for (isthing, own), style in class_styles(self.categories).items()
        ]
        return sorted(records, key=lambda record: record["id"])


class MaskSaver:
    """Writes a folder per picture: a black and white png per segment, and a json that lists them."""

    def __init__(self, folder: Path) -> None:
        """Start in an empty folder."""
        self.folder = folder

    def add(self, file: Path, name: str, result: PanopticResult) -> None:
        """Write the folder of a picture file under a name that no other has."""
        own = self.folder / name
        own.mkdir()
        records = []
        for segment in result.segments:
            mask_name = f"{segment.id:04d}_{re.sub('[^0-9A-Za-z]+', '-', segment.name)}.png"
            Image.fromarray(segment.mask).save(own / mask_name)
            keys = ("id", "name", "isthing", "score", "area", "box")
            records.append({"mask": mask_name, **{key: getattr(segment, key) for key in keys}})
        content = {"picture": file.name, "segments": records}
        (own / MASK_LISTING).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def save_panoptic(folder: Path, datasets: Sequence[str], categories: Categories) -> Iterator[PanopticSaver]:
    """Give a saver of predictions in COCO-panoptic form; the folder has all of them at the end, or is as it was.

    Args:
        folder: replaced if it is there; its parent must exist.
        datasets: names of those that the model is for; ids of categories and pictures are theirs.
        categories: the model's classes.
    Raises: ValueError: if the folder has something else than such predictions.
    """
    _check_content(folder, lambda path: path.name in (PREDICTIONS, LISTING))
    with whole_folder(folder) as partial:
        saver = PanopticSaver(
            partial, categories, dataset_category_ids(datasets[0], categories), dataset_image_ids(datasets)
        )
        yield saver
        saver.finish()


@contextmanager
def save_masks(folder: Path) -> Iterator[MaskSaver]:
    """Give a saver of masks; the folder has all of them at the end, or is as it was.

    Args:
        folder: replaced if it is there; its parent must exist.
    Raises: ValueError: if the folder has something else than such masks.
    """
    _check_content(folder, lambda path: (path / MASK_LISTING).is_file())
    with whole_folder(folder) as partial:
        yield MaskSaver(partial)


def _check_content(folder: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raise ValueError if a folder that is to be replaced has something that nobody here wrote."""
    content = folder.iterdir() if folder.is_dir() else [folder] * folder.exists()
    if strangers := sorted(path for path in content if not is_ours(path)):
        raise ValueError(
            f"{folder} would be replaced as a whole, but {strangers[0]} is no prediction and would be lost: "
            "give another output folder or move it away"
        )


def dataset_category_ids(dataset: str, categories: Categories) -> dict[tuple[bool, int], int]:
    """Return the dataset's own id of each of its classes, by kind and contiguous id."""
    metadata = MetadataCatalog.get(dataset)
    kinds = (
        (True, metadata.thing_dataset_id_to_contiguous_id, categories.thing_ids),
        (False, metadata.stuff_dataset_id_to_contiguous_id, categories.stuff_ids),
    )
    return {
        (isthing, own): dataset_id
        for isthing, contiguous, classes in kinds
        for dataset_id, own in contiguous.items()
        if own in classes
    }


def dataset_image_ids(datasets: Sequence[str]) -> dict[str, int]:
    """Return the ids of the pictures in the datasets' json files, as far as these are there, by file name.

    Names that several pictures have, in different folders, are left out.
    """
    paths = [MetadataCatalog.get(name).get("panoptic_json", "") for name in datasets]
    contents = [read_panoptic_json(path) for path in paths if path and Path(path).is_file()]
    ids = [(Path(image["file_name"]).name, image["id"]) for content in contents for image in content["images"]]
    counts = Counter(name for name, _ in ids)
    return {name: id_ for name, id_ in ids if counts[name] == 1}
