"""Config keys of Panoptic FPN: Detectron2 has those of the model, this adds what our models share."""

from __future__ import annotations

from detectron2.config import CfgNode

from panoptic_segformer.config import add_merging_config, add_shared_config

__all__ = ["add_panoptic_fpn_config"]


def add_panoptic_fpn_config(cfg: CfgNode) -> None:
    """Make a Detectron2 config one of Panoptic FPN, in place; its own yaml files merge with it.

    The keys of the model are Detectron2's (MODEL.RPN, ROI_HEADS, SEM_SEG_HEAD, PANOPTIC_FPN). Its numbers of classes,
    MODEL.ROI_HEADS.NUM_CLASSES and MODEL.SEM_SEG_HEAD.NUM_CLASSES (1 + those of stuff), may be 0: the dataset's then.
    """
    add_shared_config(cfg)
    add_merging_config(cfg)
    # The recipe that Detectron2's yaml files take for granted.
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.SLOW_PARAMETERS = []
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.INPUT.CROP_RESIZE.PROB = 0.0
