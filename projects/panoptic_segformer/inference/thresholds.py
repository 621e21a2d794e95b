"""Thresholds by one name for every model, where each has keys of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from detectron2.config import CfgNode

__all__ = ["Thresholds", "with_thresholds"]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the way from a network's output to segments; None leaves a model's own.

    Attributes:
        score: least confidence of a segment; of things alone for Panoptic FCN and Panoptic FPN, of their centres for
            Panoptic-DeepLab.
        mask: value of a mask above which a pixel belongs to it.
        overlap: greatest share of a segment that better ones may have taken, in [0, 1].
    """

    score: float | None = None
    mask: float | None = None
    overlap: float | None = None


# The keys by meta-architecture and threshold. "1-" marks one that says how much of a segment must be left.
_KEYS = {
    "PanopticSegFormer": {
        "score": ["MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD"],
        "mask": ["MODEL.PANOPTIC_SEGFORMER.MERGING.MASK_THRESHOLD"],
        "overlap": [
            "MODEL.PANOPTIC_SEGFORMER.MERGING.THING_OVERLAP_THRESHOLD",
            "MODEL.PANOPTIC_SEGFORMER.MERGING.STUFF_OVERLAP_THRESHOLD",
        ],
    },
    "PSFPanopticFCN": {
        "score": ["MODEL.INFERENCE.COMBINE.INST_THRESH"],
        "overlap": ["MODEL.INFERENCE.COMBINE.OVERLAP_THRESH"],
    },
    "PSFMaskFormer": {
        "score": ["MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD"],
        "overlap": ["1-MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD"],
    },
    "PSFDetrPanoptic": {"score": ["MODEL.DETR.TEST.SCORE_THRESHOLD"]},
    "PSFPanopticFPN": {
        "score": ["MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"],
        "overlap": ["MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH"],
    },
    "PSFPanopticDeepLab": {"score": ["MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD"]},
}
_MASK_WISE_KEYS = {
    "score": ["MODEL.MASK_WISE_MERGING.SCORE_THRESHOLD"],
    "mask": ["MODEL.MASK_WISE_MERGING.MASK_THRESHOLD"],
    "overlap": [
        "MODEL.MASK_WISE_MERGING.THING_OVERLAP_THRESHOLD",
        "MODEL.MASK_WISE_MERGING.STUFF_OVERLAP_THRESHOLD",
    ],
}
_LEFT = "1-"


def with_thresholds(cfg: CfgNode, thresholds: Thresholds) -> CfgNode:
    """Return a config with the thresholds under the keys of its model.

    Raises: ValueError: if the model has no such threshold (names those it has), or a value is out of range.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    is_mask_wise = "MASK_WISE_MERGING" in cfg.MODEL and cfg.MODEL.MASK_WISE_MERGING.ENABLED
    keys = _MASK_WISE_KEYS if is_mask_wise else _KEYS.get(name, {})
    cfg = cfg.clone()
    cfg.defrost()
    for field in fields(thresholds):
        value = getattr(thresholds, field.name)
        if value is None:
            continue
        if field.name not in keys:
            raise ValueError(
                f"{name} has no {field.name} threshold, it has those of {', '.join(keys)}: leave it out"
                + (", or merge with MODEL.MASK_WISE_MERGING.ENABLED True" if "MASK_WISE_MERGING" in cfg.MODEL else "")
            )
        _check(field.name, value)
        for key in keys[field.name]:
            cfg.merge_from_list([key.removeprefix(_LEFT), float(1 - value if key.startswith(_LEFT) else value)])
    return cfg


def _check(name: str, value: float) -> None:
    greatest = 1 if name == "overlap" else math.inf
    if not 0 <= value <= greatest or math.isinf(value):
        limits = "0 to 1" if name == "overlap" else "0 or more"
        raise ValueError(f"the {name} threshold is {value}: give {limits}")
