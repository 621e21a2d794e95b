"""Optimizers of the models' recipes: parameter groups, and clipping of the whole gradient.

Detectron2 clips every parameter's gradient on its own; transformers are trained with the norm of all clipped together
(paper, section 4.1). Both are here, by SOLVER.CLIP_GRADIENTS.CLIP_TYPE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from detectron2 import solver as detectron2_solver
from detectron2.config import CfgNode
from detectron2.solver import LRScheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from ..modeling.depths import backbone_depths

__all__ = ["ClippedAdam", "ClippedAdamW", "ClippedSGD", "build_lr_scheduler", "build_optimizer"]

# The value of SOLVER.CLIP_GRADIENTS.CLIP_TYPE that clips all gradients together.
CLIP_ALL = "full_model"
# Detectron2's own, which clip parameter by parameter.
CLIP_EACH = ("value", "norm")
# Parameters that decay as embeddings do: Swin's biases by relative position.
POSITION_TABLES = ("relative_position_bias_table",)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class _ClippedTogether:
    """Scales all gradients before each step so that their common L2 norm is at most `max_norm`."""

    max_norm: float | None
    param_groups: list[dict[str, object]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Clip, then step as the optimizer does."""
        if self.max_norm is not None:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.max_norm)
        return super().step(closure)


class ClippedAdamW(_ClippedTogether, torch.optim.AdamW):
    """AdamW behind clipping of the whole gradient; `max_norm` None = no clipping."""

    def __init__(self, params: list[dict[str, object]], max_norm: float | None, **kwargs: object) -> None:
        super().__init__(params, **kwargs)
        self.max_norm = max_norm
        # A fused kernel would undo the scaling of mixed precision itself, after the clipping; this makes the scaler
        # undo it before.
        self._step_supports_amp_scaling = False


class ClippedAdam(_ClippedTogether, torch.optim.Adam):
    """Adam behind clipping of the whole gradient; `max_norm` None = no clipping."""

    def __init__(self, params: list[dict[str, object]], max_norm: float | None, **kwargs: object) -> None:
        super().__init__(params, **kwargs)
        self.max_norm = max_norm
        self._step_supports_amp_scaling = False


class ClippedSGD(_ClippedTogether, torch.optim.SGD):
    """SGD with momentum behind clipping of the whole gradient; `max_norm` None = no clipping."""

    def __init__(self, params: list[dict[str, object]], max_norm: float | None, **kwargs: object) -> None:
        super().__init__(params, **kwargs)
        self.max_norm = max_norm
        self._step_supports_amp_scaling = False


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of a config.

    SOLVER.SLOW_PARAMETERS learn SOLVER.SLOW_MULTIPLIER times as fast; for backbones SOLVER.BACKBONE_MULTIPLIER stands
    for that factor where the config has it, and SOLVER.LAYER_DECAY slows them down layer by layer.
    SOLVER.WEIGHT_DECAY_NORM, _EMBED and _BIAS stand for SOLVER.WEIGHT_DECAY where they are given.

    Raises: ValueError: if optimizer or kind of gradient clipping is unknown, or layers can't be told apart.
    """
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE not in (CLIP_ALL, *CLIP_EACH):
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}: set it to {CLIP_ALL!r} (the norm of all gradients "
            f"together), to one of {', '.join(map(repr, CLIP_EACH))} (each parameter's on its own), or ENABLED to False"
        )
    groups = _parameter_groups(cfg, model)
    max_norm = clip.CLIP_VALUE if clip.ENABLED and clip.CLIP_TYPE == CLIP_ALL else None
    # Fused: one kernel for all parameters, on CPU and CUDA.
    if solver.OPTIMIZER.upper() == "ADAMW":
        optimizer = ClippedAdamW(groups, max_norm, lr=solver.BASE_LR, fused=True)
    elif solver.OPTIMIZER.upper() == "ADAM":
        optimizer = ClippedAdam(groups, max_norm, lr=solver.BASE_LR, fused=True)
    elif solver.OPTIMIZER.upper() == "SGD":
        momentum = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
        optimizer = ClippedSGD(groups, max_norm, lr=solver.BASE_LR, **momentum, fused=True)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}: set it to 'ADAMW', 'ADAM' or 'SGD'")
    if clip.ENABLED and clip.CLIP_TYPE in CLIP_EACH:
        optimizer = maybe_add_gradient_clipping(cfg, optimizer)
    return optimizer


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Return Detectron2's schedule of SOLVER.LR_SCHEDULER_NAME, or the polynomial one of its DeepLab project."""
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return detectron2_solver.build_lr_scheduler(cfg, optimizer)
    from detectron2.projects import deeplab  # Compiles at import, which few configs need.

    return deeplab.build_lr_scheduler(cfg, optimizer)


def _parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, object]]:
    """Return the parameters that learn, grouped by learning rate and weight decay, fastest first.

    Each group has a `name` of both: its learning rate as a multiple of SOLVER.BASE_LR, and its weight decay.
    """
    depths = _depths(cfg.SOLVER.LAYER_DECAY, model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, module, parameter in _learning_parameters(model):
        factor = _rate_factor(cfg, name) * cfg.SOLVER.LAYER_DECAY ** depths.get(name, 0)
        groups.setdefault((factor, _weight_decay(cfg, name, module)), []).append(parameter)
    return [
        {
            "params": groups[factor, decay],
            "lr": cfg.SOLVER.BASE_LR * factor,
            "weight_decay": decay,
            "name": f"lr_x{factor:.4g}_wd_{decay:.4g}",
        }
        for factor, decay in sorted(groups, reverse=True)
    ]


def _depths(layer_decay: float, model: nn.Module) -> dict[str, int]:
    """Return how often which parameter's learning rate is decayed; none is without layer decay."""
    if not 0 < layer_decay <= 1:
        raise ValueError(f"SOLVER.LAYER_DECAY is {layer_decay}: set it to more than 0 and at most 1.0, which is off")
    return {} if layer_decay == 1 else backbone_depths(model)


def _learning_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield name, module and value of every parameter that learns, each once."""
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, modules[name.rpartition(".")[0]], parameter


def _rate_factor(cfg: CfgNode, name: str) -> float:
    solver, rate = cfg.SOLVER, 1.0
    if "backbone" in name and "BACKBONE_MULTIPLIER" in solver:
        rate *= solver.BACKBONE_MULTIPLIER
    elif any(word in name for word in solver.SLOW_PARAMETERS):
        rate *= solver.SLOW_MULTIPLIER
    if name.endswith("bias"):
        rate *= solver.BIAS_LR_FACTOR
    return rate


def _weight_decay(cfg: CfgNode, name: str, module: nn.Module) -> float:
    solver, decay = cfg.SOLVER, None
    if isinstance(module, NORMS):
        decay = solver.WEIGHT_DECAY_NORM
    elif isinstance(module, nn.Embedding) or name.endswith(POSITION_TABLES):
        decay = solver.get("WEIGHT_DECAY_EMBED")
    elif name.endswith("bias"):
        decay = solver.WEIGHT_DECAY_BIAS
    return solver.WEIGHT_DECAY if decay is None else decay
