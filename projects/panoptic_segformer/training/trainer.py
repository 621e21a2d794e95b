"""Detectron2's DefaultTrainer with our data, optimizer, evaluators and checkpoint errors."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.solver import LRScheduler
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, has_event_storage
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.optim import Optimizer

from ..checkpoint.loading import PanopticCheckpointer
from ..data.mapper import PanopticDatasetMapper
from ..evaluation import build_evaluators
from .launching import parallel_model
from .optimizer import build_lr_scheduler, build_optimizer
from .reporting import StepReport
from .validation_pictures import put_validation_pictures
from .writers import build_writers

__all__ = ["PanopticTrainer"]


class PanopticTrainer(DefaultTrainer):
    """Trains and evaluates any config of any of the models."""

    def __init__(self, cfg: CfgNode) -> None:
        """Set up a training.

        Raises: ValueError: if the batch does not divide among SOLVER.REFERENCE_WORLD_SIZE GPUs.
        """
        batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference not in (0, comm.get_world_size()) and batch % reference:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {batch}, which {reference} GPUs (SOLVER.REFERENCE_WORLD_SIZE) can't share: "
                "set SOLVER.REFERENCE_WORLD_SIZE to 0 to give batch, learning rate and iterations yourself"
            )
        TrainerBase.__init__(self)  # DefaultTrainer's own can't train on several processes of a CPU
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        step = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = step(parallel_model(model), self.build_train_loader(cfg), optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """Return the recipe's optimizer with its groups."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        """Return the recipe's schedule of the learning rate."""
        return build_lr_scheduler(cfg, optimizer)

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

    def build_hooks(self) -> list[HookBase]:
        """Return Detectron2's hooks and one more for figures of each step.

        Errors of their checkpointer name the file and what is wrong with it.
        """
        self.checkpointer = PanopticCheckpointer(self._trainer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        hooks = super().build_hooks()
        if comm.is_main_process():
            hooks.insert(-1, StepReport(self.cfg))  # after the timer and before the writers
        return hooks

    def build_writers(self) -> list[EventWriter]:
        """Return writers that no full disk ends the training with."""
        trainer = weakref.proxy(self)
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter, lambda: trainer.start_iter)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> dict[str, dict[str, float]]:
        """Evaluate as Detectron2 does; inside a training, put some pictures into TensorBoard, too."""
        results = super().test(cfg, model, evaluators)
        if cfg.TEST.VALIDATION_PICTURES and has_event_storage() and comm.is_main_process():
            put_validation_pictures(cfg, model)
        return results

    def train(self) -> dict[str, dict[str, float]]:
        """Train to the end and return the last evaluation's results by task; empty if there was none."""
        super().train()
        return getattr(self, "_last_eval_results", {})
