"""What a model's config says, before the model is built: enough to look its predictions up in the cache.

Runs in the process of one model alone: projects register things under names that other projects have too, and their
config functions change the same keys. Shape legend: H, W size of the picture as the network sees it.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import nn

from ..config import load_config
from ..data.datasets import register_datasets
from ..data.reading import read_picture
from .spec import ModelSpec, closest

__all__ = ["Blueprint", "choose_device", "read_blueprint"]

# Memory addresses in texts of functions.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Blueprint:
    """A model that can be built.

    Attributes:
        build: makes it, in inference mode and on its device, with random weights.
        text: everything in the config that predictions depend on.
        dataset: the registered dataset whose classes it predicts.
        input_format: channel order of its pictures, "RGB" or "BGR".
        augmentations: how it resizes them.
    """

    build: Callable[[], nn.Module]
    text: str
    dataset: str
    input_format: str
    augmentations: Sequence[T.Augmentation]

    def inputs(self, path: str | Path) -> list[dict[str, Any]]:
        """Return a picture as the model takes it: `image` (3, H, W) float32, `height` and `width` of the file.

        Raises: FileNotFoundError, ValueError: if it can't be read.
        """
        picture = read_picture(path, self.input_format)
        height, width = picture.shape[:2]
        resized = T.AugInput(picture)
        T.AugmentationList(self.augmentations)(resized)
        image = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1), dtype=np.float32))
        return [{"image": image, "height": height, "width": width, "file_name": str(path)}]

    def describe_input(self) -> str:
        """Return channel order and resizing in words."""
        return ", ".join([self.input_format, *map(_describe_augmentation, self.augmentations)])


def read_blueprint(spec: ModelSpec, device: str) -> Blueprint:
    """Import what a model needs and read its config.

    Args:
        spec: the model.
        device: "auto", "cpu" or "cuda".
    Raises: ValueError: if a module can't be imported, a config function does not exist, the config does not merge or
        there is no such device.
    """
    sys.path[:0] = spec.paths
    for module in spec.imports:
        _import(module, "imports")
    device = choose_device(device)
    if spec.config.endswith(".py"):
        return _from_lazy_config(spec, device)
    cfg = _own_config(spec) if spec.setup is None else _external_config(spec)
    cfg.MODEL.DEVICE = device
    return _from_config(cfg)


def _describe_augmentation(augmentation: T.Augmentation) -> str:
    if isinstance(augmentation, T.ResizeShortestEdge):
        return f"short side {augmentation.short_edge_length[0]}, long side at most {augmentation.max_size}"
    return str(augmentation)


def _own_config(spec: ModelSpec) -> CfgNode:
    cfg = load_config(spec.config, spec.opts)
    if not spec.allow_partial:
        cfg.MODEL.TIMM.WEIGHTS = ""  # Those of the backbone would all be replaced.
    register_datasets(cfg)
    return cfg


def _external_config(spec: ModelSpec) -> CfgNode:
    cfg = get_cfg()
    for word in spec.setup or ():
        _setup_function(word)(cfg)
    try:
        cfg.merge_from_file(spec.config, allow_unsafe=False)  # yaml that would run code is refused
        cfg.merge_from_list(list(spec.opts))
    except (KeyError, AssertionError, ValueError, yaml.YAMLError) as error:
        reason = error.args[0] if error.args else error
        raise ValueError(
            f"config {spec.config} with overrides {list(spec.opts)} does not merge: {reason}; "
            "let 'setup' name every config function that its project calls"
        ) from error
    return cfg


def _from_config(cfg: CfgNode) -> Blueprint:
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST of the config is empty: the meaning of classes comes from its first dataset")
    identity = cfg.clone()
    identity.defrost()
    identity.OUTPUT_DIR = identity.MODEL.WEIGHTS = ""  # Of the weights their content counts.
    sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    return Blueprint(
        build=lambda: build_model(cfg).eval(),
        text=identity.dump(),
        dataset=cfg.DATASETS.TEST[0],
        input_format=cfg.INPUT.FORMAT,
        augmentations=[T.ResizeShortestEdge([sizes[0]] * 2, sizes[1])],
    )


def _from_lazy_config(spec: ModelSpec, device: str) -> Blueprint:
    """Read a config of Detectron2 that is Python: its `model` and what its `dataloader.test` says of pictures."""
    pairs = zip(spec.opts[::2], spec.opts[1::2], strict=True)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(spec.config), [f"{key}={value}" for key, value in pairs])
    try:
        names, mapper = cfg.dataloader.test.dataset.names, cfg.dataloader.test.mapper
        model, image_format, augmentations = cfg.model, mapper.image_format, instantiate(mapper.augmentations)
    except AttributeError as error:
        raise ValueError(
            f"config {spec.config} lacks what a comparison needs ({error}): model, dataloader.test.dataset.names, "
            "dataloader.test.mapper.image_format and .augmentations"
        ) from error
    return Blueprint(
        build=lambda: instantiate(model).to(device).eval(),
        text=_ADDRESS.sub("", f"{device} {names} {model} {image_format} {augmentations}"),
        dataset=names if isinstance(names, str) else names[0],
        input_format=image_format,
        augmentations=augmentations,
    )


def _setup_function(word: str) -> Callable[[CfgNode], None]:
    name, _, attribute = word.partition(":")
    if not attribute:
        raise ValueError(f"entry {word!r} of 'setup' must be module:function")
    module = _import(name, "setup")
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"module {name} of 'setup' has no function {attribute!r}{closest(attribute, vars(module))}")
    return function


def _import(name: str, key: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"module {name} of {key!r} can't be imported ({error}): let 'paths' name the folder that it lies in"
        ) from error


def choose_device(device: str) -> str:
    """Return what "auto" stands for here, or the device itself.

    Raises: ValueError: if there is no such device.
    """
    there = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if there else "cpu"
    if device.startswith("cuda") and not there:
        raise ValueError(f"device {device!r} is asked for, but torch finds no GPU that it can use: choose cpu")
    return device
