"""Config keys of Panoptic FCN, by the names that its authors gave them: their yaml files load.

Defaults are those of the released R50 models. Paper: Li et al., "Fully Convolutional Networks for Panoptic
Segmentation", CVPR 2021.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from panoptic_segformer.config import add_merging_config, add_shared_config

__all__ = ["add_panoptic_fcn_config"]


def add_panoptic_fcn_config(cfg: CfgNode) -> None:
    """Add the keys of Panoptic FCN, and those that all models share, to a Detectron2 config, in place.

    Shared keys of solver and augmentation get the values of its recipe, which its authors' yaml files do not name.
    """
    add_shared_config(cfg)
    add_merging_config(cfg)
    _add_feature_keys(cfg.MODEL)
    _add_head_keys(cfg.MODEL)
    _add_loss_keys(cfg.MODEL)
    _add_inference_keys(cfg.MODEL)
    _set_recipe(cfg)


def _add_feature_keys(model: CfgNode) -> None:
    # Levels p2 to p5 of the pyramid (MODEL.FPN) become one map, from which all masks are made.
    node = model.SEMANTIC_FPN = CfgNode()
    node.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    node.CONVS_DIM = 256
    # Stride of the map, pixels; 4 is the only one.
    node.COMMON_STRIDE = 4
    node.NORM = "GN"
    # Convolutions from that map to the features that kernels are applied to; CONVS_DIM is the length of a kernel.
    node = model.FEATURE_ENCODER = CfgNode()
    # Levels that the heads below run on, finest first.
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    _add_tower_keys(node, channels=64, deform=False, coord=True, norm="")


def _add_head_keys(model: CfgNode) -> None:
    # Where things and stuff are (paper, section 3.2).
    node = model.POSITION_HEAD = CfgNode()
    _add_tower_keys(node, channels=256, deform=True, coord=False, norm="GN")
    thing = node.THING = CfgNode()
    # Number of classes; 0 = as the dataset's metadata says. Another number must agree with it.
    thing.NUM_CLASSES = 0
    # Centre of a thing: "mass" of its mask, or the middle of its "box".
    thing.CENTER_TYPE = "mass"
    # Kernels per thing and level in training, taken where its class is found most probable.
    thing.POS_NUM = 7
    # Initial bias of both kinds of positions.
    thing.BIAS_VALUE = -2.19
    # Heat-maps: a box moved by their radius overlaps the true one at least this much; the standard deviation is the
    # diameter over this number.
    thing.MIN_OVERLAP = 0.7
    thing.GAUSSIAN_SIGMA = 3
    # What the score of a thing's kernel has to exceed, and how many things a picture may have; a level may have half
    # as many kernels.
    thing.THRES = 0.05
    thing.TOP_NUM = 100
    stuff = node.STUFF = CfgNode()
    # As above, with one class more, which comes first: "any thing".
    stuff.NUM_CLASSES = 0
    # Whether that class is trained.
    stuff.WITH_THING = True
    # What the score of a stuff class on a level has to exceed.
    stuff.THRES = 0.05

    # The weights of each position (paper, section 3.3).
    node = model.KERNEL_HEAD = CfgNode()
    _add_tower_keys(node, channels=256, deform=False, coord=True, norm="GN")
    # Least and greatest sqrt(box area) of the things of each level, pixels. Ranges overlap: a thing may be on several.
    node.INSTANCE_SCALES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
    # Of the authors' configs; nothing reads it, there or here.
    node.TEST_SCALES = ((1, 64), (64, 128), (128, 256), (256, 512), (512, 2048))


def _add_tower_keys(node: CfgNode, channels: int, deform: bool, coord: bool, norm: str) -> None:
    node.NUM_CONVS = 3
    node.CONVS_DIM = channels
    # Whether the convolutions are deformable, and whether two channels of coordinates are put before them.
    node.DEFORM = deform
    node.COORD = coord
    # A norm of Detectron2; "" = none, and convolutions have a bias.
    node.NORM = norm


def _add_loss_keys(model: CfgNode) -> None:
    node = model.LOSS_WEIGHT = CfgNode()
    node.POSITION = 1.0
    node.SEGMENT = 3.0
    node.FOCAL_LOSS_ALPHA = 0.25
    node.FOCAL_LOSS_GAMMA = 2.0
    # Of the authors' configs. Here a picture may have any number of things, and the value is always 255.
    model.TENSOR_DIM = 100
    model.IGNORE_VALUE = 255


def _add_inference_keys(model: CfgNode) -> None:
    node = model.INFERENCE = CfgNode()
    # A pixel belongs to a thing above this probability.
    node.INST_THRES = 0.4
    # Kernels of things at least this similar become one; "cosine" is the only measure.
    node.SIMILAR_THRES = 0.9
    node.SIMILAR_TYPE = "cosine"
    # Whether only kernels of one class do.
    node.CLASS_SPECIFIC = True
    # The authors' way from things and stuff to a panoptic result; MODEL.MASK_WISE_MERGING is the other one.
    combine = node.COMBINE = CfgNode()
    combine.ENABLE = True
    # Of the authors' configs; nothing reads it, there or here.
    combine.NO_OVERLAP = False
    # Things are dropped when more than this share of them is taken by better ones.
    combine.OVERLAP_THRESH = 0.5
    # Least visible area of a stuff segment, pixels.
    combine.STUFF_AREA_LIMIT = 4096
    # Least score of a thing.
    combine.INST_THRESH = 0.2


def _set_recipe(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.SLOW_PARAMETERS = []
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0  # Detectron2's, which the authors trained with
    # Of LR_SCHEDULER_NAME "WarmupPolyLR": exponent, and the last part of the rate that stays constant.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    cfg.INPUT.CROP_RESIZE.PROB = 0.0
