"""From a model's output to a `Prediction` under the ids of its own dataset.

Detectron2's projects agree on little: ids of classes are contiguous over all classes ("standard"), per kind
("separated") or the dataset's own; ids of segments start at 1 or 0; some give a map of class x divisor + instance
alone. This is the only place that knows. Shape legend: H, W size of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as rle

from ..data.categories import Categories
from .results import Category, Prediction

__all__ = ["ModelClasses", "convert_output"]

# Of a map that comes without a list of segments.
VOID_LABEL = -1


@dataclass(frozen=True)
class ModelClasses:
    """The classes that a model was trained on.

    Attributes:
        dataset: name with Detectron2.
        categories: by the dataset's ids.
        thing_ids: contiguous id -> the dataset's id; stuff_ids: likewise.
        label_divisor: of maps without a list of segments; None where the dataset has none.
    """

    dataset: str
    categories: Mapping[int, Category]
    thing_ids: Mapping[int, int]
    stuff_ids: Mapping[int, int]
    label_divisor: int | None

    @classmethod
    def of_dataset(cls, name: str) -> ModelClasses:
        """Return the classes of a registered dataset.

        Raises: ValueError: if it is no panoptic one (says what its metadata lacks).
        """
        metadata = MetadataCatalog.get(name)
        classes = Categories.from_metadata(metadata)
        categories, id_maps = {}, []
        kinds = (
            (True, metadata.thing_dataset_id_to_contiguous_id, classes.thing_ids, classes.thing_names),
            (False, metadata.stuff_dataset_id_to_contiguous_id, classes.stuff_ids, classes.stuff_names),
        )
        colors = (classes.thing_colors, classes.stuff_colors)
        for (isthing, contiguous, ids, names), kind_colors in zip(kinds, colors, strict=True):
            dataset_ids = {value: key for key, value in contiguous.items()}
            id_maps.append({id_: dataset_ids[id_] for id_ in ids})
            for id_, class_name, color in zip(ids, names, kind_colors, strict=True):
                categories[dataset_ids[id_]] = Category(dataset_ids[id_], class_name, isthing, color)
        return cls(name, categories, *id_maps, metadata.get("label_divisor"))

    def category(self, segment: Mapping[str, Any]) -> Category:
        """Return the class of a predicted segment.

        As with Detectron2's evaluator, a segment without `isthing` carries the dataset's own id.
        Raises: ValueError: if the dataset has no such class.
        """
        id_ = int(segment["category_id"])
        isthing = segment.get("isthing")
        known = dict.fromkeys(self.categories) if isthing is None else self.thing_ids if isthing else self.stuff_ids
        if id_ not in known:
            kind = (
                "the dataset's own ids"
                if isthing is None
                else "contiguous ids of " + ("things" if isthing else "stuff")
            )
            raise ValueError(
                f"a segment has category_id {id_} (isthing {isthing}), which is none of {kind} in {self.dataset!r}: "
                "let DATASETS.TEST of the model's config name the dataset it was trained on"
            )
        return self.categories[id_ if isthing is None else known[id_]]


def convert_output(output: Mapping[str, Any], size: tuple[int, int], classes: ModelClasses) -> Prediction:
    """Return what a model sees in one picture.

    Segments are numbered from 1, areas are counted, segments without a pixel are left out.

    Args:
        output: what the model returns for the picture: `panoptic_seg`, and `instances` if it has them.
        size: (H, W).
        classes: of the model.
    Raises: ValueError: if there is no panoptic result, or it has another size or classes that are not the dataset's.
    """
    if "panoptic_seg" not in output:
        raise ValueError(
            f"the model returns {sorted(output)} but no panoptic_seg: switch panoptic results on in its config"
        )
    labels, records = output["panoptic_seg"]
    labels = torch.as_tensor(labels).cpu().numpy()
    if labels.shape != size:
        raise ValueError(f"panoptic_seg has (height, width) {labels.shape}, asked for were {size}")
    if records is None:
        records = _records_of_labels(labels, classes)
    present = dict(zip(*(column.tolist() for column in np.unique(labels, return_counts=True)), strict=True))
    segment_ids = np.zeros(size, dtype=np.int32)
    segments = []
    for record in records:
        label = int(record["id"])
        if label not in present:
            continue
        segment_ids[labels == label] = len(segments) + 1
        category = classes.category(record)
        score = record.get("score")
        segments.append(
            {
                "id": len(segments) + 1,
                "category_id": category.id,
                "isthing": category.isthing,
                "score": None if score is None else float(score),
                "area": present[label],
            }
        )
    return Prediction(segment_ids, segments, _instance_records(output.get("instances"), classes))


def _records_of_labels(labels: np.ndarray, classes: ModelClasses) -> list[dict[str, Any]]:
    """Return the segments of a map of class x divisor + instance."""
    if classes.label_divisor is None:
        raise ValueError(
            f"panoptic_seg has no list of segments and the metadata of {classes.dataset!r} has no label_divisor: "
            "set it there"
        )
    found = [label for label in np.unique(labels).tolist() if label != VOID_LABEL]
    ids = [label // classes.label_divisor for label in found]
    return [
        {"id": label, "category_id": id_, "isthing": id_ in classes.thing_ids}
        for label, id_ in zip(found, ids, strict=True)
    ]


def _instance_records(instances: Instances | None, classes: ModelClasses) -> list[dict[str, Any]] | None:
    """Return the things with their masks, best first; None where the model gives no masks."""
    if instances is None or not instances.has("pred_masks"):
        return None
    scores = instances.scores.cpu().tolist()
    labels = instances.pred_classes.cpu().tolist()
    run_lengths = _run_lengths(instances.pred_masks)
    boxes = _boxes(instances, run_lengths)
    rows = sorted(zip(scores, labels, run_lengths, boxes, strict=True), key=lambda row: -row[0])
    return [
        {
            "category_id": classes.category({"category_id": label, "isthing": True}).id,
            "score": score,
            "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")},
            "bbox": box,
        }
        for score, label, mask, box in rows
    ]


def _run_lengths(masks: Any) -> list[dict[str, Any]]:
    tensor = masks.tensor if isinstance(masks, BitMasks) else torch.as_tensor(masks)
    pixels = (tensor.cpu() > 0.5).numpy().astype(np.uint8)
    return [rle.encode(np.asfortranarray(mask)) for mask in pixels]


def _boxes(instances: Instances, run_lengths: list[dict[str, Any]]) -> list[list[float]]:
    """Return (x, y, width, height); those of the masks where there are none, or zeros alone as in Mask2Former."""
    boxes = instances.pred_boxes.tensor.cpu() if instances.has("pred_boxes") else torch.zeros(0, 4)
    if not boxes.any():
        return [rle.toBbox(mask).tolist() for mask in run_lengths]
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
