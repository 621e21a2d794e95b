"""How good predictions are: panoptic quality, COCO's precision and intersection over union, the same for every model.

Shape legend: H, W size of a picture; K classes.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..evaluation.instances import write_thing_annotations
from ..evaluation.quality import Overlap, class_indices, count_matches, group_qualities, no_counts
from ..evaluation.semantic import semantic_qualities
from ..evaluation.truth import PanopticTruth
from .results import Picture, Prediction

__all__ = ["PanopticQualities", "measure_qualities", "panoptic_qualities"]

PredictionOfPicture = Callable[[Picture], Prediction]


@dataclass(frozen=True)
class PanopticQualities:
    """Panoptic quality in percent, and what semantic quality is counted from.

    Attributes:
        all: by column: PQ, SQ, RQ, each also with _th and _st.
        pictures: PQ of each picture, by its name: the mean over the classes that truth or prediction have there; nan
            where there are none.
        confusion: (K + 1, K + 1) pixels of each predicted (row) and true class; the last one is void.
    """

    all: Mapping[str, float]
    pictures: Mapping[str, float]
    confusion: np.ndarray


def measure_qualities(
    truth: PanopticTruth, pictures: Sequence[Picture], prediction_of: PredictionOfPicture
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the columns of `ModelResult.qualities` and the PQ of each picture.

    AP is left out where the model gives no instances or the truth has no things. A predicted class that the truth
    does not know is wrong wherever it stands.

    Args:
        truth: of the pictures.
        pictures: all that the truth has.
        prediction_of: gives the prediction of a picture, under the truth's ids.
    """
    panoptic = panoptic_qualities(truth, pictures, prediction_of)
    qualities = {**panoptic.all, **_semantic_qualities(truth, panoptic.confusion)}
    return {**qualities, **_precisions(truth, pictures, prediction_of)}, dict(panoptic.pictures)


def panoptic_qualities(
    truth: PanopticTruth, pictures: Sequence[Picture], prediction_of: PredictionOfPicture
) -> PanopticQualities:
    """Return panoptic quality as panopticapi counts it, areas counted in the png; arguments as `measure_qualities`."""
    classes = class_indices(truth.categories)
    total = no_counts(len(classes))
    confusion = np.zeros((len(classes) + 1,) * 2, dtype=np.int64)
    by_picture = {}
    for picture in pictures:
        prediction = _of_known_classes(prediction_of(picture), classes)
        overlap = Overlap.of(
            truth.segment_ids(picture.image_id),
            truth.annotations[picture.image_id]["segments_info"],
            prediction.segment_ids,
            prediction.segments,
            classes,
        )
        counts = count_matches(overlap, overlap.ious(), len(classes))
        total += counts
        confusion += overlap.confusion(len(classes))
        by_picture[picture.name] = group_qualities(counts.sum(axis=0), truth.categories)["PQ"]
    return PanopticQualities(group_qualities(total.sum(axis=0), truth.categories), by_picture, confusion)


def _of_known_classes(prediction: Prediction, categories: Mapping[int, Any]) -> Prediction:
    """Return a prediction in which pixels of other classes are void, as panopticapi refuses these."""
    segments = [segment for segment in prediction.segments if segment["category_id"] in categories]
    if len(segments) == len(prediction.segments):
        return prediction
    known = [segment["id"] for segment in segments]
    return Prediction(np.where(np.isin(prediction.segment_ids, known), prediction.segment_ids, 0), segments)


def _semantic_qualities(truth: PanopticTruth, confusion: np.ndarray) -> dict[str, float]:
    """Return mIoU of the panoptic maps over all classes, and mIoU_st, its mean over classes of stuff."""
    results = semantic_qualities(confusion, [category["name"] for category in truth.categories])
    stuff = [results[f"IoU-{category['name']}"] for category in truth.categories if not category["isthing"]]
    occurring = [value for value in stuff if math.isfinite(value)]
    return {"mIoU": results["mIoU"], "mIoU_st": float(np.mean(occurring)) if occurring else math.nan}


def _precisions(
    truth: PanopticTruth, pictures: Sequence[Picture], prediction_of: PredictionOfPicture
) -> dict[str, float]:
    """Return AP of masks and AP_box; {} where there is none."""
    things = {category["id"] for category in truth.things}
    records = []
    has_instances = False
    for picture in pictures:
        instances = prediction_of(picture).instances
        has_instances |= instances is not None
        records += [
            {**instance, "image_id": picture.image_id}
            for instance in instances or ()
            if instance["category_id"] in things
        ]
    if not has_instances or not things:
        return {}
    with tempfile.TemporaryDirectory(prefix="thing_annotations") as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "annotations.json"
        write_thing_annotations(truth, path)
        annotated = COCO(str(path))
        return {
            column: _average_precision(annotated, records, kind)
            for column, kind in (("AP", "segm"), ("AP_box", "bbox"))
        }


def _average_precision(annotated: COCO, records: Sequence[Mapping[str, Any]], kind: str) -> float:
    """Return COCO's average precision in percent; nan where no thing is to be found."""
    if not annotated.anns:
        return math.nan
    if not records:
        return 0.0
    # With a box beside the mask, COCO's code would take areas from the boxes.
    dropped = "bbox" if kind == "segm" else "segmentation"
    predicted = annotated.loadRes([{key: value for key, value in row.items() if key != dropped} for row in records])
    evaluation = COCOeval(annotated, predicted, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    average = float(evaluation.stats[0])
    return 100 * average if average >= 0 else math.nan
