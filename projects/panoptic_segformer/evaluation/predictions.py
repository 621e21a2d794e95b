"""Saved predictions in COCO-panoptic form, paired with the truth of the same pictures.

Shape legend: H, W size of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.reading import check_segments, read_annotations, read_segment_ids
from .truth import PanopticTruth

__all__ = ["SavedPicture", "SavedSegments", "folder_of", "saved_pictures"]

SHOWN_IDS = 8


@dataclass(frozen=True)
class SavedSegments:
    """Segments of a picture as a png and records.

    Attributes:
        png: file with the id of each pixel, red + 256 green + 65536 blue.
        size: (height, width) of the picture.
        segments: records with id and category_id, and iscrowd where it is set.
    """

    png: Path
    size: tuple[int, int]
    segments: Sequence[Mapping[str, Any]]

    def read(self) -> np.ndarray:
        """Return the map (H, W) int32 of segment ids, 0 = void.

        Raises: FileNotFoundError, ValueError: if the png is missing, damaged or does not fit the records.
        """
        ids = read_segment_ids(self.png, self.size)
        check_segments(self.png, ids, {segment["id"] for segment in self.segments})
        return ids


@dataclass(frozen=True)
class SavedPicture:
    """Truth and prediction of one picture."""

    truth: SavedSegments
    prediction: SavedSegments


def folder_of(json_path: Path) -> Path:
    """Return the folder of png that belongs to a json unless another one is given: its name without the ending."""
    return json_path.with_suffix("")


def saved_pictures(truth: PanopticTruth, json_path: Path, png_root: Path) -> list[SavedPicture]:
    """Return the annotated pictures of a truth, each with its prediction; no png is read yet.

    Predictions of other pictures are left out.

    Args:
        truth: with the categories that count.
        json_path: of the predictions; needs 'annotations', other lists may be there.
        png_root: folder of the predictions' png.

    Raises: FileNotFoundError: if json or folder do not exist. ValueError: if the json is not of this form, lacks a
        picture of the truth, or has a class that the truth does not have.
    """
    if not truth.annotations:
        raise ValueError(f"{truth.json_path} annotates no pictures ('annotations' is empty): there is nothing to count")
    for root, json_file in ((truth.png_root, truth.json_path), (png_root, json_path)):
        if not root.is_dir():
            raise FileNotFoundError(
                f"folder {root} of the png that belong to {json_file} does not exist: give its path"
            )
    predictions = {annotation["image_id"]: annotation for annotation in read_annotations(json_path)}
    _check_predictions(truth, predictions, json_path)
    pictures = []
    for image_id, annotation in truth.annotations.items():
        image, prediction = truth.images[image_id], predictions[image_id]
        size = image["height"], image["width"]
        pictures.append(
            SavedPicture(
                SavedSegments(truth.png_root / annotation["file_name"], size, _lean(annotation["segments_info"])),
                SavedSegments(png_root / prediction["file_name"], size, _lean(prediction["segments_info"])),
            )
        )
    return pictures


def _check_predictions(truth: PanopticTruth, predictions: Mapping[Any, Mapping[str, Any]], json_path: Path) -> None:
    if missing := [image_id for image_id in truth.annotations if image_id not in predictions]:
        raise ValueError(
            f"{json_path} has no prediction for {len(missing)} of the {len(truth.annotations)} pictures that "
            f"{truth.json_path} annotates, ids {', '.join(map(str, missing[:SHOWN_IDS]))}: predict all of them, one "
            "without segments has an empty 'segments_info'"
        )
    known = {category["id"] for category in truth.categories}
    for image_id in truth.annotations:
        for segment in predictions[image_id]["segments_info"]:
            if segment["category_id"] not in known:
                raise ValueError(
                    f"{json_path} gives segment {segment['id']} of picture {image_id} the category_id "
                    f"{segment['category_id']}, which {truth.json_path} does not have: predictions need the ids of its "
                    "'categories', not the model's own numbers"
                )


def _lean(segments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return records without what is not needed, as they travel to other processes."""
    return [{key: segment[key] for key in ("id", "category_id", "iscrowd") if key in segment} for segment in segments]
