"""Config keys of DETR: those of its authors' Detectron2 wrapper under their names, and those of the panoptic model.

Defaults are the released R50 model's. Detectron2's own MODEL.MASK_ON says whether there is a mask head.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from panoptic_segformer.config import add_merging_config, add_shared_config

__all__ = ["add_detr_panoptic_config"]


def add_detr_panoptic_config(cfg: CfgNode) -> None:
    """Add the keys of DETR, and those that all models share, to a Detectron2 config, in place."""
    add_shared_config(cfg)
    add_merging_config(cfg)
    # Factor of the learning rate for the backbone.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # INPUT.CROP means what it does in the wrapper: a crop before the resize, of half of the pictures. "" puts it behind
    # the resize, and INPUT.CROP_RESIZE before it, see data/augmentations.py.
    cfg.INPUT.DATASET_MAPPER_NAME = "detr_panoptic"
    cfg.INPUT.CROP_RESIZE.PROB = 0.0
    # A pixel belongs to the mask of an instance above this probability.
    cfg.MODEL.MASK_THRESHOLD = 0.5
    cfg.MODEL.DETR = CfgNode()
    _add_network_keys(cfg.MODEL.DETR)
    _add_training_keys(cfg.MODEL.DETR)
    _add_inference_keys(cfg.MODEL.DETR)


def _add_network_keys(node: CfgNode) -> None:
    # True: a class has the number of its category in the dataset's json, as in the authors' panoptic checkpoints, so
    # that some numbers stand for nothing. False: the classes of the dataset alone; an authors' checkpoint then gives
    # the rows of these.
    node.RAW_CATEGORY_IDS = True
    # With raw category ids: one more than the greatest id there may be. Without: not read.
    node.NUM_CLASSES = 250
    # Backbone features, finest first; the mask head takes four, boxes come from the last alone.
    node.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Width D of tokens and queries, attention heads M, width of the feed-forward layers.
    node.HIDDEN_DIM = 256
    node.NHEADS = 8
    node.DIM_FEEDFORWARD = 2048
    node.DROPOUT = 0.1
    node.ENC_LAYERS = 6
    node.DEC_LAYERS = 6
    node.NUM_OBJECT_QUERIES = 100
    # Norms in front of the layers' parts; no released model has them, and only False is there.
    node.PRE_NORM = False


def _add_training_keys(node: CfgNode) -> None:
    # Second stage of the authors' recipe: the file of a trained box model, in their form or ours. Its parts are loaded
    # and do not learn, the mask head alone does. MODEL.WEIGHTS is loaded on top. "": everything learns together.
    node.FROZEN_WEIGHTS = ""
    # Factor of the weights that the mask head starts with for attention maps. A map sums to 1 over thousands of
    # numbers, features are about 1 each: with the authors' 1.0 the masks of different queries are the same for a long
    # time, about 100 parts them at once. It matters to trainings from scratch alone.
    node.MAP_GAIN = 1.0
    # True puts class and box losses on every decoder layer.
    node.DEEP_SUPERVISION = True
    # Weights of the loss terms; that of the class is 1. Matching has those of class and box.
    node.L1_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    node.MASK_WEIGHT = 1.0
    node.DICE_WEIGHT = 1.0
    # Weight of unmatched queries in the class loss.
    node.NO_OBJECT_WEIGHT = 0.1


def _add_inference_keys(node: CfgNode) -> None:
    node.TEST = CfgNode()
    # Queries below this class probability are no segments.
    node.TEST.SCORE_THRESHOLD = 0.85
    # Queries of one stuff class. True, as the authors' code has it: the first one stays, and pixels of the others go to
    # whatever is strongest among the rest. False: all together are one segment.
    node.TEST.COMPAT_DEDUP = True
    # Whether `instances` are returned too: the mask head then runs for every query whose best class is a thing.
    node.TEST.INSTANCE_ON = False
