"""Numbers of classes that a config may leave to its dataset: 0 stands for the dataset's number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from detectron2.config import CfgNode

__all__ = ["with_class_numbers"]


def with_class_numbers(cfg: CfgNode, numbers: Mapping[str, int]) -> CfgNode:
    """Return a copy of a config in which keys that are 0 have the dataset's numbers of classes.

    Args:
        cfg: stays as it is.
        numbers: the dataset's, by the full name of the key, such as "MODEL.ROI_HEADS.NUM_CLASSES".
    Raises: ValueError: if a key has another number than the dataset.
    """
    for key, number in numbers.items():
        given = reduce(getattr, key.split("."), cfg)
        if given not in (0, number):
            names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
            raise ValueError(
                f"{key} is {given}, but dataset {names[0]!r} needs {number}: set the key to {number}, or to 0 to take "
                "the dataset's number"
            )
    copy = cfg.clone()
    copy.defrost()
    copy.merge_from_list([word for pair in numbers.items() for word in pair])
    return copy
