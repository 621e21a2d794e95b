"""The panoptic truth of a dataset as the evaluators need it, from its json and png alone.

Predictions of models carry the metadata's contiguous ids, files the dataset's own; they meet here.
Shape legend: H, W picture size, K number of all classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from ..data.reading import check_segments, read_panoptic_json, read_segment_ids
from .read_ahead import ReadAhead

__all__ = ["PanopticTruth"]


@dataclass(frozen=True)
class PanopticTruth:
    """Truth of one dataset.

    Attributes:
        json_path: the panoptic json; png_root: folder of the png.
        categories: K categories of the json, sorted by id.
        images, annotations: entries of the json by picture id, of annotated pictures only.
        thing_ids, stuff_ids: id that predictions carry -> id in the json.
    """

    json_path: Path
    png_root: Path
    categories: list[dict[str, Any]]
    images: dict[Any, dict[str, Any]]
    annotations: dict[Any, dict[str, Any]]
    thing_ids: dict[int, int]
    stuff_ids: dict[int, int]
    # Several evaluators look at one picture after the other, and decoding takes longer than counting.
    _maps: ReadAhead[int | str, np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_maps", ReadAhead(self._read_segment_ids, self.annotations))

    @classmethod
    def of_dataset(cls, name: str) -> PanopticTruth:
        """Return the truth of a registered dataset.

        Raises: ValueError: if it is not a panoptic one. FileNotFoundError: if there is no json.
        """
        metadata = MetadataCatalog.get(name)
        if metadata.get("panoptic_json") is None or metadata.get("panoptic_root") is None:
            raise ValueError(
                f"dataset {name!r} has no panoptic truth (panoptic_json and panoptic_root in its metadata): "
                "register it with DATASETS.REGISTER, or use one of Detectron2's panoptic datasets"
            )
        return replace(
            cls.of_files(metadata.panoptic_json, metadata.panoptic_root),
            thing_ids={value: key for key, value in metadata.thing_dataset_id_to_contiguous_id.items()},
            stuff_ids={value: key for key, value in metadata.stuff_dataset_id_to_contiguous_id.items()},
        )

    @classmethod
    def of_files(cls, json_path: str | Path, png_root: str | Path) -> PanopticTruth:
        """Return the truth of a json and a folder of png, for predictions under the json's own ids.

        Raises: as `read_panoptic_json`, and ValueError: if an annotated picture is not among the json's pictures, or a
            segment's category not among its categories.
        """
        content = read_panoptic_json(json_path)
        annotations = {annotation["image_id"]: annotation for annotation in content["annotations"]}
        images = {image["id"]: image for image in content["images"] if image["id"] in annotations}
        if lost := [id_ for id_ in annotations if id_ not in images]:
            raise ValueError(f"{json_path} annotates picture id {lost[0]}, which is not among its 'images': add it")
        known = {category["id"] for category in content["categories"]}
        for image_id, annotation in annotations.items():
            for segment in annotation["segments_info"]:
                segment.setdefault("iscrowd", 0)
                if segment["category_id"] not in known:
                    raise ValueError(
                        f"{json_path} gives segment {segment['id']} of picture {image_id} the category_id "
                        f"{segment['category_id']}, which its 'categories' lack: add it, or correct the segment"
                    )
        ids_by_kind = {kind: {} for kind in (True, False)}
        for category in content["categories"]:
            ids_by_kind[bool(category["isthing"])][category["id"]] = category["id"]
        return cls(
            Path(json_path),
            Path(png_root),
            content["categories"],
            images,
            annotations,
            thing_ids=ids_by_kind[True],
            stuff_ids=ids_by_kind[False],
        )

    @property
    def things(self) -> list[dict[str, Any]]:
        """Categories of things, sorted by id."""
        return [category for category in self.categories if category["isthing"]]

    def segment_ids(self, image_id: int | str) -> np.ndarray:
        """Return the segment ids (H, W) int32 of a picture, 0 = void; read-only, as the last map is kept.

        Pictures are best asked for in the json's order: the next maps are read in threads.

        Raises: FileNotFoundError, ValueError: if the png is missing, damaged or does not fit the json, or the picture
            is not annotated.
        """
        if image_id not in self.annotations:
            raise ValueError(
                f"{self.json_path} has no annotation for picture id {image_id!r}: evaluate on the pictures that it "
                "annotates"
            )
        return self._maps[image_id]

    def _read_segment_ids(self, image_id: int | str) -> np.ndarray:
        annotation, image = self.annotations[image_id], self.images[image_id]
        path = self.png_root / annotation["file_name"]
        ids = read_segment_ids(path, (image["height"], image["width"]))
        check_segments(path, ids, {segment["id"] for segment in annotation["segments_info"]})
        ids.setflags(write=False)
        return ids

    def segment_areas(self, image_id: int | str) -> dict[int, int]:
        """Return the number of pixels of each segment id of a picture.

        Raises: as `segment_ids`.
        """
        ids, areas = np.unique(self.segment_ids(image_id), return_counts=True)
        return dict(zip(ids.tolist(), areas.tolist(), strict=True))

    def category_id(self, segment: dict[str, Any]) -> int:
        """Return the json's category id of a predicted segment (category_id contiguous, isthing).

        Raises: ValueError: if there is no such class.
        """
        ids = self.thing_ids if segment["isthing"] else self.stuff_ids
        if segment["category_id"] not in ids:
            raise ValueError(
                f"a predicted segment of {'things' if segment['isthing'] else 'stuff'} has the class "
                f"{segment['category_id']}, the dataset has {sorted(ids)}: evaluate on a dataset of the model's classes"
            )
        return ids[segment["category_id"]]

    def fingerprint(self) -> str:
        """Return a short text that changes with the json's content or the folder of the png."""
        digest = hashlib.sha256(self.json_path.read_bytes())
        digest.update(str(self.png_root.resolve()).encode())
        return digest.hexdigest()[:12]
