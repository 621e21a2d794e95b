"""Semantic quality (mean intersection over union) of panoptic maps, instances of a class taken together.

It needs no semantic output of the model and no semantic files: both sides come from panoptic maps.
Shape legend: H, W picture size, K number of all classes; class K stands for void.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from .quality import joint_histogram
from .truth import PanopticTruth

__all__ = ["SemanticEvaluator", "semantic_qualities"]

logger = logging.getLogger(__name__)


class SemanticEvaluator(DatasetEvaluator):
    """Counts classes of pixels and returns {"sem_seg": {"mIoU", "fwIoU", "mACC", "pACC", "IoU-<class>", ...}}.

    Pixels without truth are left out, pixels without prediction are wrong. All values are percentages.
    """

    def __init__(self, truth: PanopticTruth, with_things: bool = True) -> None:
        """Keep the truth.

        Args:
            truth: of the dataset.
            with_things: False leaves out the classes of things; their pixels are without truth then.
        """
        self._truth = truth
        categories = [category for category in truth.categories if with_things or not category["isthing"]]
        self._names = [category["name"] for category in categories]
        self._classes = {category["id"]: index for index, category in enumerate(categories)}
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        size = len(self._classes) + 1
        self._confusion = np.zeros((size, size), dtype=np.int64)  # [prediction, truth]

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Raises: ValueError: if a predicted map does not fit the truth or its own records.
        """
        for picture, output in zip(inputs, outputs, strict=True):
            ids, segments = output["panoptic_seg"]
            image_id = picture["image_id"]
            true_ids = self._truth.segment_ids(image_id)
            known = self._truth.annotations[image_id]["segments_info"]
            shared = joint_histogram(
                ids.cpu().numpy(),
                true_ids,
                [segment["id"] for segment in segments],
                [segment["id"] for segment in known],
            )
            rows = self._classes_of(self._truth.category_id(segment) for segment in segments)
            columns = self._classes_of(segment["category_id"] for segment in known)
            np.add.at(self._confusion, (rows[:, None], columns), shared)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return the qualities on the main process and None elsewhere; all processes must call it."""
        comm.synchronize()
        gathered = comm.gather(self._confusion)
        if not comm.is_main_process():
            return None
        results = semantic_qualities(np.sum(gathered, axis=0), self._names)
        logger.info("semantic quality: %s", {key: round(results[key], 2) for key in ("mIoU", "fwIoU", "mACC", "pACC")})
        return {"sem_seg": results}

    def _classes_of(self, category_ids: Iterable[int]) -> np.ndarray:
        """Return the class of void and of each category id."""
        void = len(self._classes)
        return np.array([void, *(self._classes.get(category_id, void) for category_id in category_ids)])


def semantic_qualities(confusion: np.ndarray, names: list[str]) -> dict[str, float]:
    """Return the measures by Detectron2's keys, in percent.

    Args:
        confusion: (K + 1, K + 1) pixels of each predicted (row) and true class; the last one is void.
        names: of the K classes.
    """
    right = np.diag(confusion)[:-1].astype(np.float64)
    truth = confusion[:, :-1].sum(axis=0)
    predicted = confusion[:-1, :-1].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # Classes that do not occur are nan.
        accuracy = right / truth
        overlap = np.where(truth > 0, right / (truth + predicted - right), np.nan)
        results = {
            "mIoU": _mean(overlap),
            "fwIoU": np.nansum(overlap * truth) / truth.sum(),
            "mACC": _mean(accuracy),
            "pACC": right.sum() / truth.sum(),
        }
    for name, class_overlap, class_accuracy in zip(names, overlap, accuracy, strict=True):
        results[f"IoU-{name}"] = class_overlap
        results[f"ACC-{name}"] = class_accuracy
    return {key: 100 * float(value) for key, value in results.items()}


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
