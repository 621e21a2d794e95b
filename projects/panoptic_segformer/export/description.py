"""What a file says of itself: classes, sizes and thresholds, so that it can be used without config and checkpoint."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode

from .program import GREATEST_SIDE, LEAST_SIDE

if TYPE_CHECKING:
    from ..meta_arch import PanopticSegFormer

__all__ = ["DESCRIPTION", "describe"]

# Key of the description, which is json, in ONNX's metadata and among the extra files of a .pt2.
DESCRIPTION = "panoptic_segformer"


def describe(cfg: CfgNode, model: PanopticSegFormer) -> dict[str, Any]:
    """Return what users of an exported model need to know besides its graph.

    Returns: categories (id as the outputs have it, name, isthing, color); input (order of channels; short and long side
        that pictures are resized to, short 0 = as they are; least and greatest side that the file takes; mean and
        deviation, which the graph applies itself); merging (thresholds and exponents); versions.
    """
    categories = model.categories
    kinds = (
        (True, categories.thing_ids, categories.thing_names, categories.thing_colors),
        (False, categories.stuff_ids, categories.stuff_names, categories.stuff_colors),
    )
    return {
        "categories": [
            {"id": id_, "name": name, "isthing": isthing, "color": list(color)}
            for isthing, *columns in kinds
            for id_, name, color in zip(*columns, strict=True)
        ],
        "input": {
            "channels": cfg.INPUT.FORMAT,
            "short_side": cfg.INPUT.MIN_SIZE_TEST,
            "long_side": cfg.INPUT.MAX_SIZE_TEST,
            "least_side": LEAST_SIDE,
            "greatest_side": GREATEST_SIDE,
            "pixel_mean": model.pixel_mean.flatten().tolist(),
            "pixel_std": model.pixel_std.flatten().tolist(),
        },
        "merging": dataclasses.asdict(model.inference_options.merging),
        "versions": {"torch": torch.__version__},
    }
