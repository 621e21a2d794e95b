"""How a model is run to profile it: everything that `panseg benchmark` can be told.

A setting is plain values, so that the process that measures memory can do the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from ..analysis import build_for_sizing
from ..checkpoint.checkpointer import PanopticCheckpointer
from ..compilation import check_compiler
from ..data.reading import read_picture
from ..inference.loading import check_device, check_weights
from ..registration import load_config
from ..training.optimizer import build_optimizer
from .inference import PictureBatch, time_inference
from .inputs import make_scene
from .stages import Run
from .training import time_training_step, training_examples

__all__ = ["Setting", "Subject"]

# What --compile compiles, each on its own: the steps between them depend on what is in the picture.
COMPILED_PARTS = (
    "backbone",
    "encoder",
    "location_decoder",
    "thing_mask_decoder",
    "classifying_mask_decoder",
    "stuff_mask_decoder",
)
WEIGHTS_SEED = 0


@dataclass(frozen=True)
class Setting:
    """What is run, and how.

    Attributes:
        config_file, opts: the config with its overrides KEY VALUE.
        weights: file or address of a checkpoint; empty for random weights.
        size: (height, width) that the network sees.
        picture: file; empty for a synthetic scene.
        threads: of the CPU.
        amp: whether torch.autocast is on.
        channels_last: whether the backbone and its input have that memory format.
        compiled: whether the parts go through torch.compile.
        train: whether it is training steps and not inference.
    """

    config_file: str
    opts: tuple[str, ...]
    weights: str
    size: tuple[int, int]
    picture: str
    threads: int
    amp: bool
    channels_last: bool
    compiled: bool
    train: bool


class Subject:
    """A model as its setting wants it, ready to run.

    Attributes:
        cfg: the config.
        model: in training or inference mode, on its device.
    """

    def __init__(self, setting: Setting) -> None:
        """Build the model; what the setting asks for in vain is a ValueError or FileNotFoundError."""
        self.setting = setting
        if setting.train and setting.picture:
            raise ValueError("training steps need a truth, which --input has not: leave out --input or --train")
        self.cfg = load_config(setting.config_file, setting.opts)
        if "MODEL.WEIGHTS" in setting.opts:
            raise ValueError("MODEL.WEIGHTS is among the overrides: give the checkpoint as --weights")
        if self.cfg.MODEL.META_ARCHITECTURE != "PanopticSegFormer":
            raise ValueError(
                f"{setting.config_file} is a config of {self.cfg.MODEL.META_ARCHITECTURE}: stages are known of "
                "PanopticSegFormer alone; `panseg compare` measures any model as a whole"
            )
        check_device(self.cfg)
        torch.set_num_threads(setting.threads)
        self.picture = self._read_picture()
        self.model = _build_model(self.cfg, setting.weights)
        _check_autocast(self.model.device, setting.amp)
        if setting.channels_last:
            _use_channels_last(self.model.backbone)
        if setting.compiled:
            _compile_parts(self.model)
        if setting.train:
            self.model.train()

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """The config's optimizer of the model."""
        return build_optimizer(self.cfg, self.model)

    def prepare(self, number: int) -> Callable[[], Run]:
        """Return what runs once with `number` pictures at a time."""
        setting = self.setting
        if setting.train:
            examples = training_examples(self.model.categories, setting.size, number)
            return lambda: time_training_step(self.model, self.optimizer, examples, setting.amp)
        batch = PictureBatch(self.picture, setting.size, number)
        return lambda: time_inference(self.model, batch, setting.amp)

    def state_bytes(self) -> int:
        """Return how much the optimizer keeps between steps; 0 in inference."""
        if not self.setting.train:
            return 0
        states = self.optimizer.state.values()
        return sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))

    def truth(self) -> str:
        """Say how many segments a training example has that the model learns."""
        example = training_examples(self.model.categories, self.setting.size, 1)[0]
        targets = self.model.extract_targets(example)
        return f"{len(targets.things.classes)} things and {len(targets.stuff.classes)} classes of stuff"

    def _read_picture(self) -> np.ndarray:
        order = self.cfg.INPUT.FORMAT
        if self.setting.picture:
            return read_picture(self.setting.picture, order)
        image = make_scene().image
        return image if order == "RGB" else image[..., ::-1]


def _build_model(cfg: CfgNode, weights: str) -> nn.Module:
    if weights:
        check_weights(weights)
    torch.manual_seed(WEIGHTS_SEED)
    model = build_for_sizing(cfg, "cpu").to(cfg.MODEL.DEVICE)
    if weights:
        PanopticCheckpointer(model).load(weights)
    return model


def _check_autocast(device: torch.device, amp: bool) -> None:
    if amp and not torch.amp.is_autocast_available(device.type):
        raise ValueError(f"torch.autocast does not know device {device.type!r}: leave out --amp")


def _use_channels_last(backbone: nn.Module) -> None:
    """Let a backbone keep its weights in that format and bring its input into it, as part of its own work."""
    backbone.to(memory_format=torch.channels_last)
    forward = backbone.forward
    backbone.forward = lambda images: forward(images.contiguous(memory_format=torch.channels_last))


def _compile_parts(model: nn.Module) -> None:
    """Replace the parts' forward methods, if torch.compile works here at all."""
    check_compiler(model.device, "--compile")
    for name in COMPILED_PARTS:
        part = getattr(model, name)
        if part is not None:
            part.forward = torch.compile(part.forward, dynamic=False)
