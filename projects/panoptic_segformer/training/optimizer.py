"""AdamW with the released recipe's parameter groups and its clipping of the whole gradient.

Detectron2 clips every parameter's gradient on its own; the released recipe clips the norm of all together
(paper, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from torch import nn

__all__ = ["ClippedAdamW", "build_optimizer"]

# The value of SOLVER.CLIP_GRADIENTS.CLIP_TYPE that this optimizer implements.
CLIP_TYPE = "full_model"


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that first scales all gradients so that their common L2 norm is at most `max_norm`."""

    def __init__(self, params: list[dict[str, object]], max_norm: float | None, **kwargs: object) -> None:
        super().__init__(params, **kwargs)
        self.max_norm = max_norm
        # A fused kernel would undo the scaling of mixed precision itself, after the clipping; this makes the scaler
        # undo it before.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Clip, then step as AdamW does."""
        if self.max_norm is not None:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.max_norm)
        return super().step(closure)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> ClippedAdamW:
    """Return the optimizer of a config: SOLVER.SLOW_PARAMETERS learn SOLVER.SLOW_MULTIPLIER times as fast.

    Raises: ValueError: if another kind of gradient clipping is asked for.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != CLIP_TYPE:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}, this recipe clips the norm of all gradients "
            f"together: set it to {CLIP_TYPE!r}, or ENABLED to False"
        )
    slow, fast = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_slow = any(word in name for word in cfg.SOLVER.SLOW_PARAMETERS)
            (slow if is_slow else fast).append(parameter)
    groups = [
        {"params": fast, "lr": cfg.SOLVER.BASE_LR},
        {"params": slow, "lr": cfg.SOLVER.BASE_LR * cfg.SOLVER.SLOW_MULTIPLIER},
    ]
    return ClippedAdamW(
        groups,
        max_norm=clip.CLIP_VALUE if clip.ENABLED else None,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        fused=True,  # one kernel for all parameters, on CPU and CUDA
    )
