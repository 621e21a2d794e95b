"""Exponential moving average (EMA) of the weights over the steps, often better than the last weights.

Reference: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; torch.optim.swa_utils.
"""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["build_ema"]


def build_ema(model: nn.Module, decay: float) -> AveragedModel | None:
    """Return what averages a model's weights; None for a decay of 0.

    The first update copies the weights; buffers are always the model's last ones.

    Args:
        model: is copied.
        decay: SOLVER.EMA_DECAY, the share of the old average that a step keeps.

    Raises: ValueError: if the decay is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"SOLVER.EMA_DECAY is {decay}: set it to 0 (no average) or to a share below 1, such as 0.9997")
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
