"""Put together the evaluators that a panoptic dataset needs."""

from __future__ import annotations

import os

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from ..checks import check_segments
from .instances import ThingPrecisionEvaluator
from .panoptic import PanopticQualityEvaluator
from .semantic import SemanticEvaluator
from .truth import PanopticTruth

__all__ = ["build_evaluators"]


def build_evaluators(cfg: CfgNode, dataset_name: str, output_dir: str | None = None) -> DatasetEvaluators:
    """Return the evaluators of what a model learns.

    They are of panoptic quality, precision of things and semantic quality; a model of things alone is evaluated by
    their precision (masks and boxes), one of stuff alone by semantic quality. All processes must call it.

    Args:
        cfg: the config; OUTPUT_DIR is used where no folder is given.
        dataset_name: a registered panoptic dataset, ours or Detectron2's own.
        output_dir: where derived truth and predictions are written.
    Raises: FileNotFoundError, ValueError: if the dataset's truth is missing or damaged, or the config's SEGMENTS is
        unknown or it switches off the results that are to be evaluated.
    """
    node = cfg.MODEL.get("PANOPTIC_SEGFORMER")  # Other models have no such node.
    segments = "all" if node is None else node.SEGMENTS
    if node is not None:
        check_segments(node)
        _check_results(segments, node.TEST)
    output_dir = output_dir or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    truth = PanopticTruth.of_dataset(dataset_name)
    evaluators: list[DatasetEvaluator] = []
    if segments == "all":
        evaluators.append(PanopticQualityEvaluator(truth))
    if segments != "things":
        evaluators.append(SemanticEvaluator(truth, with_things=segments == "all"))
    if segments != "stuff" and truth.things:
        evaluators.append(ThingPrecisionEvaluator(truth, output_dir))
    return DatasetEvaluators(evaluators)


def _check_results(segments: str, node: CfgNode) -> None:
    kind, key, is_on = (
        ("instances", "INSTANCE_ON", node.INSTANCE_ON)
        if segments == "things"
        else ("panoptic results", "PANOPTIC_ON", node.PANOPTIC_ON)
    )
    if not is_on:
        raise ValueError(
            f"MODEL.PANOPTIC_SEGFORMER.TEST.{key} is False, but the evaluation is of {kind}: set it to True"
        )
