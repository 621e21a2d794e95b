"""Config keys of MaskFormer: its authors', those of Detectron2's DeepLab, which their files need too, and ours.

Defaults are the authors' panoptic ones. Class counts come from the dataset's metadata.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from panoptic_segformer.config import add_merging_config, add_shared_config

__all__ = ["add_maskformer_config"]


def add_maskformer_config(cfg: CfgNode) -> None:
    """Add the keys of MaskFormer, and those that all models share, to a Detectron2 config, in place."""
    add_shared_config(cfg)
    add_merging_config(cfg)
    _add_model_keys(cfg)
    _add_head_keys(cfg.MODEL.SEM_SEG_HEAD)
    _add_swin_keys(cfg)
    _add_data_keys(cfg.INPUT)
    _add_solver_keys(cfg.SOLVER)
    _add_deeplab_keys(cfg)


def _add_model_keys(cfg: CfgNode) -> None:
    node = cfg.MODEL.MASK_FORMER = CfgNode()
    # Width of the queries, attention heads, width of the feed-forward layers, dropout: of both transformers.
    node.HIDDEN_DIM = 256
    node.NHEADS = 8
    node.DIM_FEEDFORWARD = 2048
    node.DROPOUT = 0.1
    # Layers of the transformer whose queries become masks; its encoder sees TRANSFORMER_IN_FEATURE.
    node.ENC_LAYERS = 0
    node.DEC_LAYERS = 6
    node.NUM_OBJECT_QUERIES = 100
    # Only False exists: layers are normalised behind each sum.
    node.PRE_NORM = False
    # What the queries attend to: "transformer_encoder", the pixel decoder's own, or a feature of the backbone.
    node.TRANSFORMER_IN_FEATURE = "res5"
    # True projects that feature even if it has HIDDEN_DIM channels already.
    node.ENFORCE_INPUT_PROJ = False
    # Losses for the output of every decoder layer.
    node.DEEP_SUPERVISION = True
    # Weight of "no object" in the cross entropy, and of the two losses of masks; the latter weigh costs as well.
    node.NO_OBJECT_WEIGHT = 0.1
    node.MASK_WEIGHT = 20.0
    node.DICE_WEIGHT = 1.0
    # Batches are padded to multiples of so many pixels; below 0: as the backbone needs it.
    node.SIZE_DIVISIBILITY = 32

    node.TEST = CfgNode()
    # Which results are computed. The authors have panoptic and semantic ones; instances are the thing queries.
    node.TEST.PANOPTIC_ON = True
    node.TEST.INSTANCE_ON = False
    node.TEST.SEMANTIC_ON = True
    # Queries below this class probability are dropped.
    node.TEST.OBJECT_MASK_THRESHOLD = 0.8
    # Segments are dropped when less than this share of their mask is left to them.
    node.TEST.OVERLAP_THRESHOLD = 0.8
    # Masks are always resized before anything is derived from them, as the authors do it for panoptic results.
    node.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False


def _add_head_keys(node: CfgNode) -> None:
    # Width of the mask features; CONVS_DIM is that of the pixel decoder.
    node.MASK_DIM = 256
    # "TransformerEncoderPixelDecoder" has so many encoder layers on the coarsest feature, "BasePixelDecoder" none.
    node.PIXEL_DECODER_NAME = "BasePixelDecoder"
    node.TRANSFORMER_ENC_LAYERS = 0


def _add_swin_keys(cfg: CfgNode) -> None:
    # Of MODEL.BACKBONE.NAME "D2SwinTransformer"; its first weights are MODEL.TIMM.WEIGHTS.
    node = cfg.MODEL.SWIN = CfgNode()
    node.PRETRAIN_IMG_SIZE = 224
    node.PATCH_SIZE = 4
    node.EMBED_DIM = 96
    node.DEPTHS = [2, 2, 6, 2]
    node.NUM_HEADS = [3, 6, 12, 24]
    node.WINDOW_SIZE = 7
    node.MLP_RATIO = 4.0
    node.QKV_BIAS = True
    node.DROP_RATE = 0.0
    node.ATTN_DROP_RATE = 0.0
    node.DROP_PATH_RATE = 0.3
    # Of these three timm's Swin has the values below alone.
    node.QK_SCALE = None
    node.APE = False
    node.PATCH_NORM = True
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]


def _add_data_keys(node: CfgNode) -> None:
    # "detr_panoptic" and "mask_former_panoptic" give INPUT.CROP the meaning that it has in the authors' mappers of
    # these names; "" leaves INPUT.CROP_RESIZE and INPUT.CROP to say it.
    node.DATASET_MAPPER_NAME = ""
    # For "mask_former_panoptic": jitter of colours, and the side of the squares that pictures are filled up to, where
    # 0 or less means none.
    node.COLOR_AUG_SSD = False
    node.SIZE_DIVISIBILITY = -1


def _add_solver_keys(node: CfgNode) -> None:
    # The backbone learns more slowly by this key, nothing by SLOW_MULTIPLIER.
    node.BACKBONE_MULTIPLIER = 0.1
    node.SLOW_PARAMETERS = []
    node.WEIGHT_DECAY_NORM = 0.0
    node.WEIGHT_DECAY_EMBED = 0.0


def _add_deeplab_keys(cfg: CfgNode) -> None:
    """Add what Detectron2's DeepLab adds, which may be there already, for it or for another model."""
    # Of LR_SCHEDULER_NAME "WarmupPolyLR".
    _add_missing(cfg.SOLVER, POLY_LR_POWER=0.9, POLY_LR_CONSTANT_ENDING=0.0)
    # How much of a crop one class may cover; 1.0 alone exists here.
    _add_missing(cfg.INPUT.CROP, SINGLE_CATEGORY_MAX_AREA=1.0)
    # The authors' files give some of these; nothing here reads them.
    _add_missing(cfg.MODEL.RESNETS, STEM_TYPE="deeplab", RES4_DILATION=1, RES5_MULTI_GRID=[1, 2, 4])
    _add_missing(
        cfg.MODEL.SEM_SEG_HEAD,
        LOSS_TYPE="hard_pixel_mining",
        PROJECT_FEATURES=["res2"],
        PROJECT_CHANNELS=[48],
        ASPP_CHANNELS=256,
        ASPP_DILATIONS=[6, 12, 18],
        ASPP_DROPOUT=0.1,
        USE_DEPTHWISE_SEPARABLE_CONV=False,
    )


def _add_missing(node: CfgNode, **defaults: object) -> None:
    for key, value in defaults.items():
        if key not in node:
            node[key] = value
