"""Build a model to look at its sizes: no weights are read, and the dataset need not be there."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from ..data.datasets import register_datasets

__all__ = ["build_for_sizing"]


def build_for_sizing(cfg: CfgNode, device: str) -> nn.Module:
    """Return the model of a config in inference mode, with random weights.

    Where the json of a dataset in DATASETS.REGISTER is missing, the class counts of the config stand for it, where the
    model has such keys.

    Args:
        cfg: the config, which stays as it is.
        device: "meta" for shapes without memory, "cpu" for a model that runs.
    Raises: FileNotFoundError: if a dataset's json is missing and the config lacks a class count of segments that
            the model learns. ValueError: if a key has a value that it can't have.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.MODEL.TIMM.WEIGHTS = ""
    node = cfg.MODEL.get("PANOPTIC_SEGFORMER")
    if node is not None:
        node.COMPILE = False  # operators are counted one by one
    try:
        register_datasets(cfg)
    except FileNotFoundError:
        if node is None:
            raise
        # 0 = as the dataset says, which nobody knows then; counts of segments that are not learned don't matter.
        counts = {"things": node.NUM_THING_CLASSES, "stuff": node.NUM_STUFF_CLASSES}
        if not all(count for kind, count in counts.items() if node.SEGMENTS in ("all", kind)):
            raise
        name = _register_stand_in(node.NUM_THING_CLASSES, node.NUM_STUFF_CLASSES)
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    with torch.device(device):
        return build_model(cfg).eval()


def _register_stand_in(num_things: int, num_stuff: int) -> str:
    """Return the name of a registered dataset without pictures that has this many classes."""
    name = f"no_pictures_{num_things}_things_{num_stuff}_stuff"
    if name in DatasetCatalog.list():
        return name
    number = num_things + num_stuff
    names = [f"class {i}" for i in range(number)]
    colors = [(0, 0, 0)] * number
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        thing_classes=names,
        stuff_classes=names,
        thing_colors=colors,
        stuff_colors=colors,
        thing_dataset_id_to_contiguous_id={i: i for i in range(num_things)},
        stuff_dataset_id_to_contiguous_id={i: i for i in range(num_things, number)},
    )
    return name
