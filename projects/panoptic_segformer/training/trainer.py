"""Detectron2's DefaultTrainer with our data, optimizer, evaluators and checkpoint errors."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluators
from torch import nn

from ..checkpoint.loading import PanopticCheckpointer
from ..data.mapper import PanopticDatasetMapper
from ..evaluation import build_evaluators
from .optimizer import ClippedAdamW, build_optimizer

__all__ = ["PanopticTrainer"]


class PanopticTrainer(DefaultTrainer):
    """Trains and evaluates any config of this project."""

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> ClippedAdamW:
        """Return AdamW with the recipe's groups."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, object]]]:
        """Return an endless loader of augmented examples of DATASETS.TRAIN."""
        return build_detection_train_loader(cfg, mapper=PanopticDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, object]]]:
        """Return a loader of all pictures of one dataset at test size."""
        mapper = PanopticDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """Return the evaluators of panoptic quality, mask AP and mIoU."""
        return build_evaluators(cfg, dataset_name, os.path.join(cfg.OUTPUT_DIR, "evaluation"))

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the last run in OUTPUT_DIR if `resume`, otherwise start from MODEL.WEIGHTS."""
        # DefaultTrainer makes its own checkpointer, whose errors for unreadable files say little.
        self.checkpointer = PanopticCheckpointer(self._trainer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        super().resume_or_load(resume)

    def train(self) -> dict[str, dict[str, float]]:
        """Train to the end and return the last evaluation's results by task; empty if there was none."""
        super().train()
        return getattr(self, "_last_eval_results", {})
