"""What is equal in an equal-budget training, and the check that it is.

The first config sets the terms: its datasets, backbone with weights, and input sizes go into all others, and so do
iterations, batch and the other figures of a Budget. A recipe's single learning rate steps become one drop at 80% of
the iterations, and its warm-up is cut to 10% of them; schedules without steps fit any length. What is not equal is
the model's own: optimizer, learning rates, losses, flips and crops before the resize, number of queries, padding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import Backbone, build_model
from detectron2.utils.env import seed_all_rng
from torch import nn

from ..checkpoint.checkpointer import PanopticCheckpointer
from ..config import load_config
from ..data.mapper import PanopticDatasetMapper

__all__ = ["Budget", "Setup", "equal_config", "find_differences", "inspect_setup", "terms"]

# Keys whose values are the first config's in all of them.
SHARED_KEYS = (
    *(f"DATASETS.{key}" for key in ("REGISTER", "TRAIN", "TEST")),
    *(f"DATALOADER.{key}" for key in ("NUM_WORKERS", "ASPECT_RATIO_GROUPING", "FILTER_EMPTY_ANNOTATIONS")),
    *(f"INPUT.{key}" for key in ("FORMAT", "CROP", "MIN_SIZE_TRAIN", "MIN_SIZE_TRAIN_SAMPLING", "MAX_SIZE_TRAIN")),
    *(f"INPUT.{key}" for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST")),
    *(f"MODEL.{key}" for key in ("DEVICE", "WEIGHTS", "PIXEL_MEAN", "PIXEL_STD", "BACKBONE.FREEZE_AT")),
    *(f"MODEL.RESNETS.{key}" for key in ("DEPTH", "NORM", "STRIDE_IN_1X1")),
    *(f"MODEL.TIMM.{key}" for key in ("NAME", "WEIGHTS", "FREEZE_BATCH_NORM", "SYNC_BATCH_NORM")),
    *(f"MODEL.TIMM.{key}" for key in ("DROP_PATH", "OPTIONS")),
    *(f"SOLVER.{key}" for key in ("MAX_ITER", "IMS_PER_BATCH", "REFERENCE_WORLD_SIZE", "CHECKPOINT_PERIOD")),
    "SOLVER.AMP.ENABLED",
    "TEST.EVAL_PERIOD",
    "SEED",
)
# Shares of the iterations.
DROP_AT = 0.8
LONGEST_WARMUP = 0.1
# A curve has this many points unless more or fewer are asked for.
POINTS = 10


@dataclass(frozen=True)
class Budget:
    """What each model gets; None stands for the first config's.

    Attributes:
        iterations: of training; batch: pictures in each.
        size: short side and greatest long side of the network's input in training and evaluation, pixels.
        eval_period: iterations between evaluations; None = a tenth of the iterations.
        seed: of weights, order of pictures and augmentation.
        threads: of torch on the CPU.
        device: "cpu", "cuda" or "cuda:<number>".
        opts: KEY VALUE overrides of every config, before all else.
    """

    iterations: int | None = None
    batch: int | None = None
    size: tuple[int, int] | None = None
    eval_period: int | None = None
    seed: int = 1
    threads: int = 1
    device: str | None = None
    opts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the figures.

        Raises: ValueError: if one is below 1.
        """
        figures = {"iterations": self.iterations, "batch": self.batch, "eval_period": self.eval_period}
        figures |= {"threads": self.threads, "size": self.size and min(self.size)}
        for name, figure in figures.items():
            if figure is not None and figure < 1:
                raise ValueError(f"the budget's {name} is {figure}: it must be at least 1")


@dataclass(frozen=True)
class Setup:
    """What a config under the budget's terms makes.

    Attributes:
        config: the whole config as yaml.
        device: that it is for, "cpu" or "cuda".
        parameters: of the model; backbone_parameters: of its bare backbone.
        backbone_weights: sum of the magnitudes of what the bare backbone holds, None if it starts from random weights.
        input_sizes: (height, width) that the first picture of training, without crops, and of evaluation has.
        recipe: what the model keeps of its own, text by name.
    """

    config: str
    device: str
    parameters: int
    backbone_parameters: int
    backbone_weights: float | None
    input_sizes: tuple[tuple[int, int], ...]
    recipe: Mapping[str, str]


def terms(config_file: Path, budget: Budget) -> CfgNode:
    """Return the first config under the budget: what SHARED_KEYS are taken from.

    Raises: FileNotFoundError, ValueError: if config or overrides are not valid.
    """
    cfg = load_config(config_file, budget.opts)
    solver = cfg.SOLVER
    solver.MAX_ITER = budget.iterations or solver.MAX_ITER
    solver.IMS_PER_BATCH = budget.batch or solver.IMS_PER_BATCH
    solver.REFERENCE_WORLD_SIZE = 0  # The figures are for one process.
    solver.CHECKPOINT_PERIOD = solver.MAX_ITER + 1  # model_final.pth is written anyway
    cfg.TEST.EVAL_PERIOD = budget.eval_period or max(1, solver.MAX_ITER // POINTS)
    cfg.SEED = budget.seed
    cfg.MODEL.DEVICE = budget.device or cfg.MODEL.DEVICE
    cfg.INPUT.CROP.ENABLED = False  # It comes after the resize, and would change the size.
    if budget.size:
        short, long = budget.size
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (short,), long
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = short, long
    return cfg


def equal_config(config_file: Path, first_config_file: Path, budget: Budget, output_dir: Path) -> CfgNode:
    """Return a config under the terms of the first one, frozen; results go to `output_dir`.

    Raises: FileNotFoundError, ValueError: if config or overrides are not valid.
    """
    first = terms(first_config_file, budget)
    cfg = load_config(config_file, budget.opts)
    for key in SHARED_KEYS:
        *path, name = key.split(".")
        reduce(getattr, path, cfg)[name] = copy.deepcopy(reduce(getattr, (*path, name), first))
    solver = cfg.SOLVER
    if solver.STEPS:
        solver.STEPS = (int(DROP_AT * solver.MAX_ITER),)
    solver.WARMUP_ITERS = min(solver.WARMUP_ITERS, int(LONGEST_WARMUP * solver.MAX_ITER))
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.freeze()
    return cfg


def inspect_setup(cfg: CfgNode) -> Setup:
    """Build model and inputs of a config, and return what they are.

    Raises: whatever keeps the model from being built or its weights and data from being read.
    """
    seed_all_rng(cfg.SEED)
    model = build_model(cfg)
    backbone = _bare_backbone(model)
    if cfg.MODEL.WEIGHTS:
        PanopticCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    is_pretrained = cfg.MODEL.WEIGHTS or (cfg.MODEL.TIMM.NAME and cfg.MODEL.TIMM.WEIGHTS)
    # Norms on the features are the model's choice.
    tensors = {name: value for name, value in backbone.state_dict().items() if not name.startswith("output_norms.")}
    parameters = [value.numel() for name, value in backbone.named_parameters() if name in tensors]
    magnitudes = [value.double().abs().sum().item() for value in tensors.values() if value.is_floating_point()]
    return Setup(
        config=cfg.dump(),
        device=cfg.MODEL.DEVICE,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        backbone_parameters=sum(parameters),
        backbone_weights=sum(magnitudes) if is_pretrained else None,
        input_sizes=(_input_size(cfg, cfg.DATASETS.TRAIN[0], True), _input_size(cfg, cfg.DATASETS.TEST[0], False)),
        recipe=_recipe(cfg),
    )


def find_differences(setup: Setup, first: Setup) -> list[str]:
    """Return in words what is not equal in two setups although it should be; empty if all is."""
    differences = []
    if setup.backbone_parameters != first.backbone_parameters:
        differences.append(
            f"its backbone has {setup.backbone_parameters:,} parameters, the first model's "
            f"{first.backbone_parameters:,}: give both the same one, up to the same stride (MODEL.TIMM, MODEL.RESNETS)"
        )
    elif not _nearly_equal(setup.backbone_weights, first.backbone_weights):
        differences.append(
            "its backbone starts from other weights than the first model's: check MODEL.WEIGHTS and MODEL.TIMM.WEIGHTS"
        )
    if setup.input_sizes != first.input_sizes:
        differences.append(
            f"its first pictures of training and evaluation have (height, width) {setup.input_sizes}, the first "
            f"model's {first.input_sizes}: check INPUT"
        )
    return differences


def _nearly_equal(weights: float | None, others: float | None) -> bool:
    if weights is None or others is None:
        return weights is others
    return abs(weights - others) <= 1e-6 * max(weights, others)


def _bare_backbone(model: nn.Module) -> Backbone:
    """Return the backbone that has no other one within, as FPN has.

    Raises: ValueError: if there is none.
    """
    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    for backbone in backbones:
        if not any(isinstance(child, Backbone) for child in backbone.modules() if child is not backbone):
            return backbone
    raise ValueError(f"{type(model).__name__} has no Detectron2 Backbone, so it can't be seen whether it is the same")


def _input_size(cfg: CfgNode, dataset: str, is_train: bool) -> tuple[int, int]:
    """Return the (height, width) of the first picture of a dataset where crops don't change its shape."""
    plain = cfg.clone()
    plain.defrost()
    plain.INPUT.CROP_RESIZE.PROB = 0.0
    mapper = PanopticDatasetMapper(plain, is_train=is_train)
    seed_all_rng(cfg.SEED)  # One of several sizes may be drawn.
    with torch.no_grad():
        return tuple(mapper(DatasetCatalog.get(dataset)[0])["image"].shape[-2:])


def _recipe(cfg: CfgNode) -> dict[str, str]:
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    return {
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "optimizer": f"{solver.OPTIMIZER}, learning rate {solver.BASE_LR:g}, weight decay {solver.WEIGHT_DECAY:g}",
        "schedule": f"{solver.LR_SCHEDULER_NAME}, steps {list(solver.STEPS)}, warm-up {solver.WARMUP_ITERS}",
        "clipping": f"{clip.CLIP_TYPE} {clip.CLIP_VALUE:g}" if clip.ENABLED else "none",
        "flips": cfg.INPUT.RANDOM_FLIP,
        "crops": f"{cfg.INPUT.CROP_RESIZE.PROB:.0%} of the pictures",
    }
