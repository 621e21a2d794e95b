"""Detectron2's DefaultTrainer with our data order, steps, optimizer, evaluators and checkpoints."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.solver import LRScheduler
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, has_event_storage
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..checkpoint.checkpointer import PanopticCheckpointer, write_checkpoint
from ..data.loading import TrainingLoader, build_training_loader
from ..data.mapper import PanopticDatasetMapper
from ..evaluation import build_evaluators
from ..seeding import seeded
from .ema import build_ema
from .interruption import SaveOnSignal
from .launching import parallel_model
from .loop import LoopOptions, TrainingLoop
from .optimizer import build_lr_scheduler, build_optimizer
from .output_folder import check_writable, fix_seed
from .reporting import StepReport
from .validation_pictures import put_validation_pictures
from .writers import build_writers

__all__ = ["PanopticTrainer"]

logger = logging.getLogger(__name__)


class PanopticTrainer(DefaultTrainer):
    """Trains and evaluates any config of any of the models."""

    def __init__(self, cfg: CfgNode) -> None:
        """Set up a training; a SEED below 0 is drawn.

        Raises: ValueError: if the batch does not divide among SOLVER.REFERENCE_WORLD_SIZE GPUs, the processes, or
            SOLVER.ACCUMULATE_STEPS parts, or a key has an unknown value. OSError: if OUTPUT_DIR can't be written.
        """
        batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference not in (0, comm.get_world_size()) and batch % reference:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {batch}, which {reference} GPUs (SOLVER.REFERENCE_WORLD_SIZE) can't share: "
                "set SOLVER.REFERENCE_WORLD_SIZE to 0 to give batch, learning rate and iterations yourself"
            )
        # In the place of DefaultTrainer's constructor, whose loop and wrapper for several processes are others.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        check_writable(cfg.OUTPUT_DIR)
        self.cfg = cfg = _with_seed(DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()))
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        options = LoopOptions.of(cfg)
        with seeded(cfg.SEED):
            model = self.build_model(cfg)
        self.ema = build_ema(model, cfg.SOLVER.EMA_DECAY)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self._trainer = TrainingLoop(parallel_model(model), loader, optimizer, cfg.SEED, options, self.ema)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        kept = {} if self.ema is None else {"ema": self.ema}
        self.checkpointer = PanopticCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **kept)
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
    def build_train_loader(cls, cfg: CfgNode) -> TrainingLoader:
        """Return an endless loader of augmented examples of DATASETS.TRAIN, in the order of SEED."""
        return build_training_loader(cfg, PanopticDatasetMapper(cfg, is_train=True), max(cfg.SEED, 0))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """Return a loader of all pictures of one dataset at test size."""
        mapper = PanopticDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """Return the evaluators of panoptic quality, mask AP and mIoU."""
        return build_evaluators(cfg, dataset_name, os.path.join(cfg.OUTPUT_DIR, "evaluation"))

    def build_hooks(self) -> list[HookBase]:
        """Return Detectron2's hooks, and ours for figures of each step, signals, and the EMA's evaluation."""
        solver, built = self.cfg.SOLVER, []
        for hook in super().build_hooks():
            if isinstance(hook, hooks.PeriodicCheckpointer):
                keep = solver.CHECKPOINTS_TO_KEEP or None
                hook = hooks.PeriodicCheckpointer(self.checkpointer, solver.CHECKPOINT_PERIOD, max_to_keep=keep)
            elif isinstance(hook, hooks.EvalHook):
                built.append(SaveOnSignal())
                hook = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
            elif isinstance(hook, hooks.PeriodicWriter):
                built.append(StepReport(self.cfg))
            built.append(hook)
        return built

    def build_writers(self) -> list[EventWriter]:
        """Return writers that no full disk ends the training with."""
        trainer = weakref.proxy(self)
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter, lambda: trainer.start_iter)

    def _evaluate(self) -> dict[str, dict[str, float]]:
        has_average = self.ema is not None and int(self.ema.n_averaged) > 0
        self._last_eval_results = self.test(self.cfg, self.ema.module if has_average else self.model)
        return self._last_eval_results

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> dict[str, dict[str, float]]:
        """Evaluate as Detectron2 does; inside a training, put some pictures into TensorBoard, too."""
        results = super().test(cfg, model, evaluators)
        if cfg.TEST.VALIDATION_PICTURES and has_event_storage() and comm.is_main_process():
            put_validation_pictures(cfg, model)
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue where a training in OUTPUT_DIR stopped, or load MODEL.WEIGHTS.

        Raises: as `PanopticCheckpointer.resume_or_load`.
        """
        continues = resume and self.checkpointer.has_checkpoint()
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if not continues:
            return
        self.start_iter = self.iter + 1
        if self._trainer.seed != self.cfg.SEED:
            logger.warning("goes on with the seed %d of the training, not %d", self._trainer.seed, self.cfg.SEED)
            self.cfg = _with_seed(self.cfg, self._trainer.seed)
            self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg))
        self._trainer.data_loader.start = self.start_iter

    def train(self) -> dict[str, dict[str, float]]:
        """Train to the end and return the last evaluation's results by task; empty if there was none."""
        final = Path(self.cfg.OUTPUT_DIR, "model_final.pth")
        if self.start_iter >= self.max_iter and not final.is_file():  # interrupted between the last two checkpoints
            self.checkpointer.save(final.stem, iteration=self.iter)
        super().train()
        if self.ema is not None and comm.is_main_process():
            path = Path(self.cfg.OUTPUT_DIR, "model_final_ema.pth")
            write_checkpoint(path, {"model": self.ema.module.state_dict()})
            logger.info("wrote the averaged weights alone, for MODEL.WEIGHTS: %s", path)
        return getattr(self, "_last_eval_results", {})


def _with_seed(cfg: CfgNode, seed: int | None = None) -> CfgNode:
    """Return the config with another seed, or one that is drawn where it has none."""
    was_frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    if seed is None:
        fix_seed(cfg, resume=False)
    else:
        cfg.SEED = seed
    if was_frozen:
        cfg.freeze()
    return cfg
