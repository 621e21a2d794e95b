"""Config keys of Panoptic-DeepLab: those of Detectron2's project, and what our models share."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.projects import panoptic_deeplab

from panoptic_segformer.config import add_shared_config

__all__ = ["add_panoptic_deeplab_config"]


def add_panoptic_deeplab_config(cfg: CfgNode) -> None:
    """Make a Detectron2 config one of Panoptic-DeepLab, in place; the project's own yaml files merge with it.

    MODEL.SEM_SEG_HEAD.NUM_CLASSES, the number of thing and stuff classes together, may be 0: the dataset's then.
    """
    add_shared_config(cfg)
    panoptic_deeplab.add_panoptic_deeplab_config(cfg)
    # The network learns offsets in pixels of its input. The official code takes them for pixels of the result, which
    # differ where a result has another size; True converts them.
    cfg.MODEL.PANOPTIC_DEEPLAB.SCALE_OFFSETS = False
    # The recipe that the project's yaml files take for granted.
    cfg.SOLVER.SLOW_PARAMETERS = []
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.INPUT.CROP_RESIZE.PROB = 0.0
