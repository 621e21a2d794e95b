"""Panoptic quality of all classes, things, stuff and each class, counted by panopticapi.

Detectron2's evaluator keeps the averages only and fails on datasets of things alone.
Reference: Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. PQ = SQ x RQ, all in percent.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from panopticapi.evaluation import PQStat, pq_compute_multi_core
from tabulate import tabulate

from .truth import PanopticTruth

__all__ = ["PanopticQualityEvaluator", "group_qualities", "with_areas"]

logger = logging.getLogger(__name__)

_MEASURES = ("pq", "sq", "rq")
# Row of the table, ending of the result's key, value of panopticapi's `isthing`.
_GROUPS = (("all", "", None), ("things", "_th", True), ("stuff", "_st", False))


class PanopticQualityEvaluator(COCOPanopticEvaluator):
    """Collects panoptic maps and returns {"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", ..., "PQ-<class>"}}.

    Classes that neither truth nor prediction contains are nan and stay out of the averages.
    """

    def __init__(self, dataset_name: str, truth: PanopticTruth) -> None:
        super().__init__(dataset_name)
        self._truth = truth

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the panoptic maps of a batch as png, with the areas of the true segments.

        Raises: FileNotFoundError, ValueError: if a png of the truth is missing, damaged or does not fit the json, or
            the model gives no panoptic results.
        """
        for picture, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" not in output:
                raise ValueError(
                    f"the model returns {sorted(output)} but no panoptic_seg, which panoptic quality is counted from: "
                    "switch its panoptic results on"
                )
            # Detectron2 changes the segments in place, which other evaluators still need.
            super().process([picture], [{"panoptic_seg": copy.deepcopy(output["panoptic_seg"])}])
            # Counted here and not in `evaluate`, so that the processes share the work.
            self._predictions[-1]["true_areas"] = self._truth.segment_areas(picture["image_id"])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return the qualities on the main process and None elsewhere; all processes must call it.

        Raises: ValueError: if pictures of the dataset were never given to `process` (counts them).
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = {prediction["image_id"]: prediction for prediction in itertools.chain(*gathered)}
        missing = [image_id for image_id in self._truth.annotations if image_id not in predictions]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self._truth.annotations)} pictures of {self._truth.json_path} have "
                f"no prediction (first: id {missing[0]}): evaluate on the whole dataset"
            )
        counts = self._count(predictions)
        results, table = self._summarize(counts)
        logger.info("panoptic quality:\n%s", table)
        return {"panoptic_seg": results}

    def _count(self, predictions: dict[Any, dict[str, Any]]) -> PQStat:
        """Return panopticapi's counts per category id."""
        categories = {category["id"]: category for category in self._truth.categories}
        pairs = []
        with tempfile.TemporaryDirectory(prefix="panoptic_eval") as folder:
            for number, (image_id, annotation) in enumerate(self._truth.annotations.items()):
                prediction = predictions[image_id]
                # Pictures of different folders may share a name, so the name is not used.
                file_name = f"{number}.png"
                (Path(folder) / file_name).write_bytes(prediction["png_string"])
                kept = {"file_name": file_name, "segments_info": prediction["segments_info"]}
                pairs.append((with_areas(annotation, prediction["true_areas"]), kept))
            with contextlib.redirect_stdout(io.StringIO()):
                return pq_compute_multi_core(pairs, str(self._truth.png_root), folder, categories)

    def _summarize(self, counts: PQStat) -> tuple[dict[str, float], str]:
        """Return the results by Detectron2's keys and a table of them."""
        categories = {category["id"]: category for category in self._truth.categories}
        results, rows = group_qualities(counts, categories), []
        for name, ending, isthing in _GROUPS:
            number = _average(counts, categories, isthing)["n"]
            rows.append([name, *(results[f"{key.upper()}{ending}"] for key in _MEASURES), f"{number} classes", "", ""])
        for category in self._truth.categories:
            count = counts[category["id"]]
            average = _average(counts, {category["id"]: category}, None)
            results[f"PQ-{category['name']}"] = 100 * float(average["pq"])
            if average["n"]:
                values = [100 * average[key] for key in _MEASURES]
                rows.append([category["name"], *values, count.tp, count.fp, count.fn])
        header = ["", "PQ", "SQ", "RQ", "found", "false", "missed"]
        return results, tabulate(rows, header, tablefmt="pipe", floatfmt=".2f")


def with_areas(annotation: dict[str, Any], areas: Mapping[int, int]) -> dict[str, Any]:
    """Return an annotation with the areas that its segments have in the png, by their ids.

    panopticapi believes the json's areas, which editing tools leave stale: quality could exceed 100.
    """
    segments = [{**segment, "area": areas[segment["id"]]} for segment in annotation["segments_info"]]
    return {**annotation, "segments_info": segments}


def group_qualities(counts: PQStat, categories: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Return PQ, SQ and RQ of all classes, things (PQ_th, ...) and stuff (PQ_st, ...) in percent.

    Args:
        counts: panopticapi's, by category id.
        categories: of the truth's json, by id; the averages are over those that occur.
    """
    results = {}
    for _, ending, isthing in _GROUPS:
        averages = _average(counts, categories, isthing)
        results.update({f"{key.upper()}{ending}": 100 * float(averages[key]) for key in _MEASURES})
    return results


def _average(counts: PQStat, categories: dict[int, dict[str, Any]], isthing: bool | None) -> dict[str, float]:
    try:
        return counts.pq_average(categories, isthing)[0]
    except ZeroDivisionError:  # No class of this kind occurs.
        return {**dict.fromkeys(_MEASURES, math.nan), "n": 0}
