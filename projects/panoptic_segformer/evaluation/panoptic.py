"""Panoptic quality of all classes, things, stuff and each class, counted while the model predicts.

Detectron2's evaluator keeps every prediction as png, gives the averages only and fails on datasets of things alone.
Reference: Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. PQ = SQ x RQ, all in percent.
Shape legend: K classes.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate
from torch import Tensor

from .quality import (
    GROUPS,
    MEASURES,
    Overlap,
    class_indices,
    class_qualities,
    count_matches,
    group_qualities,
    no_counts,
)
from .truth import PanopticTruth

__all__ = ["PanopticQualityEvaluator", "quality_table"]

logger = logging.getLogger(__name__)


class PanopticQualityEvaluator(DatasetEvaluator):
    """Counts panoptic maps and returns {"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", ..., "PQ-<class>"}}.

    Classes that neither truth nor prediction contains are nan and stay out of the averages. What is kept does not grow
    with the pictures but for their ids.
    """

    def __init__(self, truth: PanopticTruth) -> None:
        """Keep the truth of the dataset."""
        self._truth = truth
        self._classes = class_indices(truth.categories)
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self._counts = no_counts(len(self._classes))
        self._image_ids: list[int | str] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the panoptic maps of a batch.

        Raises: FileNotFoundError, ValueError: if a png of the truth is missing, damaged or does not fit the json, or
            the model gives no panoptic results, or such that contradict themselves.
        """
        for picture, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" not in output:
                raise ValueError(
                    f"the model returns {sorted(output)} but no panoptic_seg, which panoptic quality is counted from: "
                    "switch its panoptic results on"
                )
            image_id = picture["image_id"]
            true_ids = self._truth.segment_ids(image_id)
            try:
                overlap = self._overlap(image_id, true_ids, *output["panoptic_seg"])
            except ValueError as error:
                raise ValueError(f"prediction for picture id {image_id}: {error}") from error
            self._counts += count_matches(overlap, overlap.ious(), len(self._classes))
            self._image_ids.append(image_id)

    def _overlap(
        self, image_id: int | str, true_ids: np.ndarray, ids: Tensor, segments: list[dict[str, Any]] | None
    ) -> Overlap:
        if segments is None:  # Detectron2's Panoptic-DeepLab has the classes in the ids.
            raise ValueError("panoptic_seg has a map without records of its segments: give both")
        return Overlap.of(
            true_ids,
            self._truth.annotations[image_id]["segments_info"],
            ids.cpu().numpy(),
            [{"id": segment["id"], "category_id": self._truth.category_id(segment)} for segment in segments],
            self._classes,
        )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return the qualities on the main process and None elsewhere; all processes must call it.

        Raises: ValueError: if pictures of the dataset were given to `process` never or more than once (counts them).
        """
        comm.synchronize()
        gathered = comm.gather((self._counts, self._image_ids))
        if not comm.is_main_process():
            return None
        self._check_pictures(Counter(itertools.chain.from_iterable(image_ids for _, image_ids in gathered)))
        counts = np.sum([counts for counts, _ in gathered], axis=(0, 1))
        categories = self._truth.categories
        results = group_qualities(counts, categories)
        for category, values in zip(categories, class_qualities(counts), strict=True):
            results[f"PQ-{category['name']}"] = float(values[0])
        logger.info("panoptic quality:\n%s", quality_table(counts, categories))
        return {"panoptic_seg": results}

    def _check_pictures(self, times: Counter[int | str]) -> None:
        expected, where = self._truth.annotations, self._truth.json_path
        if missing := [image_id for image_id in expected if image_id not in times]:
            raise ValueError(
                f"{len(missing)} of {len(expected)} pictures of {where} have no prediction (first: id {missing[0]}): "
                "evaluate on the whole dataset"
            )
        if repeated := [image_id for image_id, number in times.items() if number > 1]:
            raise ValueError(
                f"{len(repeated)} pictures of {where} have more than one prediction (first: id {repeated[0]}): call "
                "reset() before an evaluation, and use a sampler that gives each picture to one process"
            )


def quality_table(counts: np.ndarray, categories: list[dict[str, Any]]) -> str:
    """Return a table of the groups and of the classes that occur.

    Args:
        counts: (K, 4) sum of IoU, found, false and missed segments.
        categories: K, in the same order.
    """
    groups, values = group_qualities(counts, categories), class_qualities(counts)
    occurs = np.isfinite(values[:, 0])
    isthing = np.array([category["isthing"] == 1 for category in categories], dtype=bool)
    rows = []
    for name, (ending, kind) in zip(("all", "things", "stuff"), GROUPS, strict=True):
        number = int((occurs if kind is None else occurs & (isthing == kind)).sum())
        rows.append([name, *(groups[f"{measure}{ending}"] for measure in MEASURES), f"{number} classes", "", ""])
    for index in np.flatnonzero(occurs):
        rows.append([categories[index]["name"], *values[index], *counts[index, 1:].astype(int).tolist()])
    return tabulate(rows, ["", *MEASURES, "found", "false", "missed"], tablefmt="pipe", floatfmt=".2f")
