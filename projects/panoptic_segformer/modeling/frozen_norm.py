"""Convolutions of Detectron2 with the frozen batch norm behind them taken into their weights.

A frozen norm is the same scale and shift for every pixel: the weights are scaled at each call, which costs next to
nothing, and one pass over every feature map is saved. Parameters and their names stay as they are. Norms must not be
exchanged for others afterwards: statistics of a batch would be ignored.
"""

from __future__ import annotations

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn

from .precision import at_least_float32

__all__ = ["fold_frozen_norms"]


class FoldedConv2d(Conv2d):
    """A convolution without bias whose norm is frozen."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to what the convolution, its norm and its activation make of it."""
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return super().forward(x)  # scaled weights would be kept for the backward pass
        norm = self.norm
        scale = at_least_float32(norm.weight) * (at_least_float32(norm.running_var) + norm.eps).rsqrt()
        weight = self.weight * scale[:, None, None, None]
        shift = norm.bias - norm.running_mean * scale
        x = self._conv_forward(x, weight.to(self.weight.dtype), shift.to(self.weight.dtype))
        return x if self.activation is None else self.activation(x)


def fold_frozen_norms(module: nn.Module) -> None:
    """Turn every convolution of a module that has a frozen norm and no bias into one that holds the norm."""
    for child in module.modules():
        if type(child) is Conv2d and isinstance(child.norm, FrozenBatchNorm2d) and child.bias is None:
            child.__class__ = FoldedConv2d
