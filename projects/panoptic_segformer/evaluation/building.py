"""Put together the evaluators that a panoptic dataset needs."""

from __future__ import annotations

import os

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from .instances import ThingPrecisionEvaluator
from .panoptic import PanopticQualityEvaluator
from .semantic import SemanticEvaluator
from .truth import PanopticTruth

__all__ = ["build_evaluators"]


def build_evaluators(cfg: CfgNode, dataset_name: str, output_dir: str | None = None) -> DatasetEvaluators:
    """Return evaluators of panoptic quality, precision of things and semantic quality.

    All processes must call it.

    Args:
        cfg: the config; OUTPUT_DIR is used where no folder is given.
        dataset_name: a registered panoptic dataset, ours or Detectron2's own.
        output_dir: where derived truth and predictions are written.
    Raises: FileNotFoundError, ValueError: if the dataset's truth is missing or damaged, or the config switches
        panoptic results off.
    """
    node = cfg.MODEL.get("PANOPTIC_SEGFORMER")  # Other models have no such node.
    if node is not None and not node.TEST.PANOPTIC_ON:
        raise ValueError(
            "MODEL.PANOPTIC_SEGFORMER.TEST.PANOPTIC_ON is False, but the evaluation is of panoptic results: "
            "set it to True"
        )
    output_dir = output_dir or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    truth = PanopticTruth.of_dataset(dataset_name)
    evaluators: list[DatasetEvaluator] = [PanopticQualityEvaluator(dataset_name, truth), SemanticEvaluator(truth)]
    if truth.things:
        evaluators.append(ThingPrecisionEvaluator(truth, output_dir))
    return DatasetEvaluators(evaluators)
