"""Activation checkpointing: layers that keep their inputs and outputs alone until the backward pass runs them again.

Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. The work is torch.utils.checkpoint's and
timm's; dropout is the same both times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.modeling.backbone.resnet import CNNBlockBase
from torch import nn
from torch.utils.checkpoint import checkpoint

from .backbone import TimmBackbone

__all__ = ["recompute", "recompute_backbone", "recompute_layers"]


def recompute(function: Callable[..., Any], *inputs: object) -> Any:
    """Return what a function makes of its inputs; it runs again in the backward pass, with the same random numbers."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


def recompute_layers(layers: Iterable[nn.Module]) -> None:
    """Let layers keep nothing of what lies between input and output; names of parameters stay as they are."""
    for layer in layers:
        layer.forward = functools.partial(recompute, layer.forward)


def recompute_backbone(backbone: nn.Module) -> None:
    """Do so for the blocks of a backbone that learn.

    Raises: ValueError: if it is neither one of Detectron2's residual networks nor a timm model that knows how, or its
        batch norm is not frozen.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules()):
        raise ValueError(
            "the backbone has batch norm that is not frozen: its blocks would count every batch twice. Set "
            "MODEL.RESNETS.NORM to FrozenBN (MODEL.TIMM.FREEZE_BATCH_NORM to True), or "
            "MODEL.PANOPTIC_SEGFORMER.ACTIVATION_CHECKPOINTING to False"
        )
    if isinstance(backbone, TimmBackbone) and _recompute_timm(backbone.model):
        return
    blocks = [module for module in backbone.modules() if isinstance(module, CNNBlockBase)]
    if not blocks:
        raise ValueError(
            f"backbone {type(backbone).__name__} has no blocks whose activations can be computed again: set "
            "MODEL.PANOPTIC_SEGFORMER.ACTIVATION_CHECKPOINTING to False, or take a ResNet or another timm model"
        )
    recompute_layers(block for block in blocks if any(parameter.requires_grad for parameter in block.parameters()))


def _recompute_timm(model: nn.Module) -> bool:
    """Switch on what a timm model has for this; return whether it has anything."""
    stages = [module for module in model.modules() if module is not model and hasattr(module, "grad_checkpointing")]
    for stage in stages:  # block by block; the model as a whole would go by stages, most of it at once
        stage.grad_checkpointing = True
    if not stages and hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing()
        return True
    return bool(stages)
