"""From a config and a checkpoint to Detectron2's predictor, with plain words where it would fail in an assertion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from ..checkpoint.checkpointer import PanopticCheckpointer
from ..config import load_config

__all__ = ["check_device", "check_weights", "configured", "load_predictor", "panoptic_only"]


def configured(config: str | Path | CfgNode, overrides: Sequence[str]) -> CfgNode:
    """Return a config of a yaml file, or a copy of one, with overrides KEY VALUE.

    Raises: FileNotFoundError: if there is no such file. ValueError: if it is no config, or an override does not fit.
    """
    if not isinstance(config, CfgNode):
        return load_config(config, overrides)
    cfg = config.clone()
    cfg.defrost()
    try:
        cfg.merge_from_list(list(overrides))
    except (KeyError, AssertionError, ValueError) as error:
        raise ValueError(f"overrides {list(overrides)} do not fit the config: {error}") from error
    return cfg


def panoptic_only(cfg: CfgNode) -> CfgNode:
    """Return a config whose model gives panoptic results, and no others where it can do without them.

    Masks of instances and maps of classes are made at the size of the picture, which takes gigabytes for large ones.
    """
    cfg = cfg.clone()
    cfg.defrost()
    wanted = {"PANOPTIC_ON": True, "INSTANCE_ON": False, "SEMANTIC_ON": False}
    for node in cfg.MODEL.values():
        if isinstance(node, CfgNode) and isinstance(node.get("TEST"), CfgNode):
            node.TEST.update({key: value for key, value in wanted.items() if key in node.TEST})
    return cfg


def load_predictor(cfg: CfgNode) -> DefaultPredictor:
    """Return Detectron2's predictor for a config, with plain words where it would fail in an assertion.

    Raises: FileNotFoundError: if there are no weights. ValueError: if they can't be read, or the config asks for
        a GPU that is not there.
    """
    weights = cfg.MODEL.WEIGHTS
    check_weights(weights)
    check_device(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""  # Detectron2's own checkpointer would run what a .pkl has in it.
    predictor = DefaultPredictor(cfg)
    PanopticCheckpointer(predictor.model).load(weights)
    return predictor


def check_weights(weights: str) -> None:
    """Raise FileNotFoundError if weights are neither a file that is there nor an address."""
    if _is_file(weights) and not Path(weights).is_file():
        raise FileNotFoundError(f"weights {weights!r} do not exist: give the file or address of a checkpoint")


def _is_file(weights: str) -> bool:
    return "://" not in weights


def check_device(cfg: CfgNode) -> None:
    """Raise ValueError if a config asks for a GPU that is not there, or for something else than CPU and GPU."""
    device = cfg.MODEL.DEVICE
    if device != "cpu" and not device.startswith("cuda"):
        raise ValueError(f"MODEL.DEVICE is {device!r}: choose cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"MODEL.DEVICE is {device!r}, but torch finds no GPU that it can use: choose cpu")
