"""Config keys of Panoptic SegFormer, those that all models share, and the one way to load a yaml file with them.

Every choice of the model, its losses and its merging has a key here; defaults are the released R50 model's.
Class counts may be given but need not be: they come from the dataset's metadata.
Reference: Li et al., "Panoptic SegFormer: Delving Deeper into Panoptic Segmentation with Transformers", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from .architectures import find_architecture

__all__ = ["add_merging_config", "add_panoptic_segformer_config", "add_shared_config", "load_config"]


def add_panoptic_segformer_config(cfg: CfgNode) -> None:
    """Add the keys of Panoptic SegFormer, and those that all models share, to a Detectron2 config, in place."""
    add_shared_config(cfg)
    _add_model_keys(cfg)
    _add_loss_keys(cfg.MODEL.PANOPTIC_SEGFORMER)
    _add_inference_keys(cfg.MODEL.PANOPTIC_SEGFORMER)


def add_shared_config(cfg: CfgNode) -> None:
    """Add what all models share, in place: backbones of timm, datasets from yaml, augmentation, solver.

    A config may get keys of several models: what it has already stays.
    """
    if "TIMM" not in cfg.MODEL:
        _add_backbone_keys(cfg)
        _add_data_keys(cfg)
        _add_solver_keys(cfg)
        _add_run_keys(cfg)


def add_merging_config(cfg: CfgNode) -> None:
    """Add mask-wise merging as an option of a model with a merging of its own, in place, unless it is there already."""
    if "MASK_WISE_MERGING" in cfg.MODEL:
        return
    node = cfg.MODEL.MASK_WISE_MERGING = CfgNode()
    # True merges as Panoptic SegFormer does, False as the model's authors do.
    node.ENABLED = False
    _add_merging_keys(node)


def _add_model_keys(cfg: CfgNode) -> None:
    node = cfg.MODEL.PANOPTIC_SEGFORMER = CfgNode()
    # Number of thing and stuff classes; 0 = as the dataset's metadata says. Another number must agree with it.
    node.NUM_THING_CLASSES = 0
    node.NUM_STUFF_CLASSES = 0
    # Whose segments are learned and predicted: "all"; "things" alone = instance segmentation; "stuff" alone = semantic.
    node.SEGMENTS = "all"
    # "decoupled": thing queries that the location decoder classifies, and one query per stuff class (released form).
    # "joint": one set of queries for both, classified by the one mask decoder (first version; docs/forms.md).
    node.QUERIES = "decoupled"
    # Backbone features, finest first; one coarser level is added to them (paper, section 3.2).
    node.IN_FEATURES = ["res3", "res4", "res5"]
    # Width D of tokens and queries, attention heads M, width of the feed-forward layers.
    node.EMBED_DIM = 256
    node.NUM_HEADS = 8
    node.FEEDFORWARD_DIM = 1024
    # Dropout of the encoder and the location decoder; the mask decoders have none.
    node.DROPOUT = 0.1
    # True trains in less memory and more time: layers and backbone blocks keep what goes in and out alone, and run
    # again in the backward pass (activation checkpointing).
    node.ACTIVATION_CHECKPOINTING = False
    # True lets torch.compile write the kernels of encoder and decoders, in training and inference: the first pictures
    # take minutes. Sizes of pictures may change; exports and measurements take the model as it is without.
    node.COMPILE = False

    node.ENCODER = CfgNode()
    node.ENCODER.NUM_LAYERS = 6
    # Sampling points P per head and level of deformable attention.
    node.ENCODER.NUM_POINTS = 4

    # Thing queries, or all in the joint form: refined to locations layer by layer (paper, section 3.3).
    node.LOCATION_DECODER = CfgNode()
    # With 0 layers there are no locations, and the mask decoder classifies the queries.
    node.LOCATION_DECODER.NUM_LAYERS = 6
    # What a location is: "box", learned by L1 and GIoU; "center_scale", the same four numbers by L1 alone (first
    # version); "center", the mask's centre of mass by L1 (the paper's variant without boxes).
    node.LOCATION_DECODER.LOCATION = "box"
    node.LOCATION_DECODER.NUM_QUERIES = 300
    node.LOCATION_DECODER.NUM_POINTS = 4

    # Blocks of the mask decoders (paper, section 3.4); the final mask comes from one more attention.
    node.MASK_DECODER = CfgNode()
    node.MASK_DECODER.NUM_THING_BLOCKS = 4
    node.MASK_DECODER.NUM_STUFF_BLOCKS = 6
    # ... of the only one that the joint form has.
    node.MASK_DECODER.NUM_JOINT_BLOCKS = 6


def _add_loss_keys(node: CfgNode) -> None:
    # Weights of the loss terms (paper, section 3.5).
    node.LOSS = CfgNode()
    node.LOSS.CLASS_WEIGHT = 2.0
    node.LOSS.BOX_WEIGHT = 5.0
    node.LOSS.GIOU_WEIGHT = 2.0
    node.LOSS.MASK_WEIGHT = 2.0
    # The released code doubles the weight of the stuff classification.
    node.LOSS.STUFF_CLASS_WEIGHT = 4.0
    # 0 compares whole masks, as released. N compares each mask at N points, most of them at its boundary: masks are
    # not kept, but made again in the backward pass, which saves memory in pictures of many segments and takes time.
    node.LOSS.MASK_POINTS = 0
    # Costs of the one-to-one matching of queries and things by class and location.
    node.MATCHER = CfgNode()
    node.MATCHER.CLASS_COST = 2.0
    node.MATCHER.BOX_COST = 5.0
    node.MATCHER.GIOU_COST = 2.0
    # Costs of the second matching, of the selected queries by class, location and mask; where the mask decoder
    # classifies the queries, it is the only one.
    node.MATCHER.MASK_STAGE_CLASS_COST = 4.0
    node.MATCHER.MASK_COST = 2.0


def _add_inference_keys(node: CfgNode) -> None:
    # Mask-wise merging (paper, section 3.6, algorithm 1).
    node.MERGING = CfgNode()
    # (query, class) pairs of things that enter the merging, best first; the joint form takes each query's best class.
    node.MERGING.NUM_THING_CANDIDATES = 100
    _add_merging_keys(node.MERGING)
    node.TEST = CfgNode()
    # Mask decoder layers (blocks and the last attention) that run in inference: fewer are faster; 0 = all.
    node.TEST.NUM_MASK_LAYERS = 0
    # Which results are computed.
    node.TEST.PANOPTIC_ON = True
    node.TEST.INSTANCE_ON = True
    node.TEST.SEMANTIC_ON = False


def _add_merging_keys(node: CfgNode) -> None:
    # A pixel belongs to a mask above this value.
    node.MASK_THRESHOLD = 0.5
    # Segments below this confidence are dropped. 0.25 for ResNet, 0.3 for PVTv2 and Swin in the released configs.
    node.SCORE_THRESHOLD = 0.25
    # Segments are dropped when more than this share of them is taken by better ones.
    node.THING_OVERLAP_THRESHOLD = 0.4
    node.STUFF_OVERLAP_THRESHOLD = 0.2
    # Exponents of class probability and mean mask value in the confidence.
    node.CLASS_EXPONENT = 1.0
    node.MASK_EXPONENT = 2.0


def _add_backbone_keys(cfg: CfgNode) -> None:
    # MODEL.BACKBONE.NAME: build_timm_backbone takes timm's `features_only` models. MODEL.BACKBONE.FREEZE_AT counts
    # strides there: all layers up to stride 2 ** FREEZE_AT do not learn. So 0 freezes nothing, 1 the stem of
    # convolutional networks (nothing in PVTv2, Swin and ConvNeXt, which start at stride 4), 2 stem and first stage.
    node = cfg.MODEL.TIMM = CfgNode()
    # timm's name of the model, with the tag of its weights (pvt_v2_b5.in1k) or without.
    node.NAME = ""
    # Weights of the bare backbone, not needed where MODEL.WEIGHTS gives those of the whole model: a file, an address
    # or package://<module>/<file in it>; "timm" = the weights that timm has, over the network; "" = random.
    # Files may have the names of timm, of the authors of PVTv2 and Swin, or of efficientnet-pytorch.
    node.WEIGHTS = ""
    # Strides of the features, finest first; they are named res3, res4, res5 for strides 8, 16, 32.
    node.STRIDES = [8, 16, 32]
    # True keeps the statistics and affine parameters of batch norm as they were loaded.
    node.FREEZE_BATCH_NORM = True
    # True takes the statistics of batch norm that learns over all GPUs; for Detectron2's ResNet, MODEL.RESNETS.NORM is
    # SyncBN instead.
    node.SYNC_BATCH_NORM = False
    # Greatest share of pictures for which a residual branch is left out in training; it grows linearly with depth.
    node.DROP_PATH = 0.0
    # True adds layer norm to each feature, as detectors on Swin have it; PVTv2 has its own.
    node.OUTPUT_NORM = False
    # Further arguments of the timm model, by their names in timm.
    node.OPTIONS = CfgNode(new_allowed=True)


def _add_data_keys(cfg: CfgNode) -> None:
    # Datasets in COCO-panoptic form, registered from yaml alone; each name has the keys IMAGES (a folder),
    # PANOPTIC_JSON (a file) and PANOPTIC_PNG (a folder).
    # Relative paths start at $DETECTRON2_DATASETS (default ./datasets), as Detectron2's own do.
    cfg.DATASETS.REGISTER = CfgNode(new_allowed=True)
    # Second augmentation of the paper: resize, crop, resize.
    node = cfg.INPUT.CROP_RESIZE = CfgNode()
    # Share of the pictures that it is applied to; 0 switches it off.
    node.PROB = 0.5
    # Short sides that a picture is resized to before the crop, pixels.
    node.SHORT_SIDES = [400, 500, 600]
    # Least and greatest height and width of the crop, pixels.
    node.CROP_MIN = 384
    node.CROP_MAX = 600
    # What a training does with a picture that can't be read, or does not fit its truth: "stop", or "skip" (say it once
    # and take another one).
    cfg.DATALOADER.BROKEN_PICTURES = "stop"
    # Seconds after which a loader process that gives no batch stops the training; 0 = never.
    cfg.DATALOADER.TIMEOUT = 600
    # Folder where a training keeps decoded pictures, about 6 bytes a pixel; "" = nowhere.
    cfg.DATALOADER.CACHE_DIR = ""


def _add_solver_keys(cfg: CfgNode) -> None:
    # "ADAMW", "ADAM" or "SGD".
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Of the parameters of norms; None = as all others, where Detectron2 has 0.
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    # Factor of the learning rate for parameters whose name contains one of the words below.
    cfg.SOLVER.SLOW_MULTIPLIER = 0.1
    cfg.SOLVER.SLOW_PARAMETERS = ["backbone", "sampling_offsets", "reference_points"]
    # Each layer of the backbone learns so many times as fast as the one above it, in (0, 1]: the topmost by this
    # factor, the one below by its square. The factors above come on top; 1.0 switches it off.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # The pictures of a step are computed in so many parts, one after the other: less memory, the same step.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # Of mixed precision (SOLVER.AMP.ENABLED): "float16" with scaled losses, or "bfloat16".
    cfg.SOLVER.AMP.PRECISION = "float16"
    # Weights averaged over the steps are evaluated and saved as well: share of the old average that a step keeps, such
    # as 0.9997; 0 = no average.
    cfg.SOLVER.EMA_DECAY = 0.0
    # So many steps may be left out because losses or gradients are not finite; the next one stops the training.
    cfg.SOLVER.MAX_SKIPPED_STEPS = 0
    # Checkpoints of the last so many periods are kept; 0 = all.
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 0


def _add_run_keys(cfg: CfgNode) -> None:
    # True lets torch use deterministic algorithms alone: with a SEED, a training ends in the same bits again.
    cfg.SOLVER.DETERMINISTIC = False
    # Pictures of each dataset of DATASETS.TEST that TensorBoard gets at every evaluation, beside truth and prediction.
    cfg.TEST.VALIDATION_PICTURES = 4


def load_config(config_file: str | Path, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config of a yaml file with `KEY VALUE` overrides.

    MODEL.DEVICE is the GPU if there is one and the CPU otherwise, unless file or overrides say more.

    Raises: FileNotFoundError: if there is no such file. ValueError: if it is no yaml, or a key or value does not fit.
    """
    path = Path(config_file)
    if not path.is_file():
        raise FileNotFoundError(f"config file {path} does not exist: give the path of a yaml file, see configs/")
    opts = list(opts)
    try:
        architecture = find_architecture(_meta_architecture(path, opts))
        cfg = get_cfg()
        architecture.add_config(cfg)
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        cfg.merge_from_file(str(path), allow_unsafe=False)  # yaml that would run code is refused
        cfg.merge_from_list(opts)
        if cfg.TEST.AUG.ENABLED and not architecture.has_views:
            raise ValueError(
                f"TEST.AUG.ENABLED is True, but {cfg.MODEL.META_ARCHITECTURE} has no test-time augmentation: set it to "
                "False, or take a config of PanopticSegFormer"
            )
    except (KeyError, AssertionError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"config {path} with overrides {opts} is not valid: {error}") from error
    return cfg


def _meta_architecture(path: Path, opts: list[str]) -> str:
    """Return the meta-architecture that a yaml file with overrides asks for: it decides which keys there are."""
    try:
        content = CfgNode.load_yaml_with_base(str(path), allow_unsafe=False)
        name = content.get("MODEL", {}).get("META_ARCHITECTURE", "PanopticSegFormer")
    except (AttributeError, TypeError) as error:
        raise ValueError("the file and its MODEL have to hold keys with values, and one of them does not") from error
    return str(dict(zip(opts[::2], opts[1::2], strict=False)).get("MODEL.META_ARCHITECTURE", name))
