"""From a config to the parts of the model."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone

from panoptic_segformer.checks import check_backbone
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.datasets import configured_categories
from panoptic_segformer.inference.merging import MergeOptions
from panoptic_segformer.modeling.frozen_norm import fold_frozen_norms

from .class_rows import ClassRows, dataset_ids_of
from .criterion import Criterion
from .inference import InferenceOptions
from .mask_head import NUM_GROUPS, AttentionMaps, MaskHead
from .transformer import Transformer

__all__ = ["build_parts"]

NUM_MASK_FEATURES = 4


def build_parts(cfg: CfgNode) -> dict[str, object]:
    """Return the arguments of the meta-architecture's constructor that a config stands for.

    Raises: ValueError: if a key has a value that it can't have, or the datasets lack what it asks for.
    """
    node = cfg.MODEL.DETR
    check_backbone(cfg)
    categories = configured_categories(cfg)
    backbone = _backbone(cfg)
    shapes = backbone.output_shape()
    _check(cfg, shapes)
    channels = [shapes[name].channels for name in node.IN_FEATURES]
    return {
        "backbone": backbone,
        "in_features": node.IN_FEATURES,
        "transformer": Transformer(
            dim=node.HIDDEN_DIM,
            num_heads=node.NHEADS,
            feedforward_dim=node.DIM_FEEDFORWARD,
            num_encoder_layers=node.ENC_LAYERS,
            num_decoder_layers=node.DEC_LAYERS,
            dropout=node.DROPOUT,
        ),
        "dim": node.HIDDEN_DIM,
        "num_queries": node.NUM_OBJECT_QUERIES,
        "bbox_attention": AttentionMaps(node.HIDDEN_DIM, node.NHEADS) if cfg.MODEL.MASK_ON else None,
        "mask_head": _mask_head(node, channels) if cfg.MODEL.MASK_ON else None,
        "classes": _class_rows(cfg, categories),
        "criterion": Criterion(
            box=node.L1_WEIGHT,
            giou=node.GIOU_WEIGHT,
            mask=node.MASK_WEIGHT,
            dice=node.DICE_WEIGHT,
            no_object=node.NO_OBJECT_WEIGHT,
        ),
        "deep_supervision": node.DEEP_SUPERVISION,
        "frozen_weights": node.FROZEN_WEIGHTS,
        "inference_options": _inference_options(cfg),
        "categories": categories,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _backbone(cfg: CfgNode) -> Backbone:
    backbone = build_backbone(cfg)
    fold_frozen_norms(backbone)
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone" and cfg.MODEL.RESNETS.RES5_DILATION == 2:
        # DETR-DC5 stands on torchvision's ResNet, whose first dilated block is not dilated yet.
        first = backbone.res5[0].conv2
        first.dilation = first.padding = (1, 1)
    return backbone


def _mask_head(node: CfgNode, channels: list[int]) -> MaskHead:
    return MaskHead(node.HIDDEN_DIM, node.NHEADS, channels[-2::-1], node.MAP_GAIN)


def _check(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> None:
    node = cfg.MODEL.DETR
    missing = [name for name in node.IN_FEATURES if name not in shapes]
    if missing:
        raise ValueError(
            f"MODEL.DETR.IN_FEATURES names {', '.join(missing)}, but the backbone gives {', '.join(shapes)}: choose "
            "from these, or let it give others by MODEL.RESNETS.OUT_FEATURES or MODEL.TIMM.STRIDES"
        )
    needed = NUM_MASK_FEATURES if cfg.MODEL.MASK_ON else 1
    if len(node.IN_FEATURES) < needed or (cfg.MODEL.MASK_ON and len(node.IN_FEATURES) > needed):
        raise ValueError(
            f"MODEL.DETR.IN_FEATURES is {list(node.IN_FEATURES)}: the mask head takes {NUM_MASK_FEATURES} features, "
            "finest first; boxes alone (MODEL.MASK_ON False) need one"
        )
    if node.FROZEN_WEIGHTS and not cfg.MODEL.MASK_ON:
        raise ValueError(
            "MODEL.DETR.FROZEN_WEIGHTS freezes all but the mask head, which MODEL.MASK_ON False leaves out: set one of "
            "the two otherwise"
        )
    if node.FROZEN_WEIGHTS and not Path(node.FROZEN_WEIGHTS).is_file():
        raise FileNotFoundError(
            f"MODEL.DETR.FROZEN_WEIGHTS is {node.FROZEN_WEIGHTS!r}, which does not exist: give the file of a trained "
            "box model, or '' to use a whole model, by MODEL.WEIGHTS"
        )
    if node.PRE_NORM:
        raise ValueError("MODEL.DETR.PRE_NORM is True: only False is there, no released DETR has its norms in front")
    for key in ("NUM_OBJECT_QUERIES", "DEC_LAYERS"):
        if node[key] < 1:
            raise ValueError(f"MODEL.DETR.{key} is {node[key]}: set it to 1 or more")
    if node.HIDDEN_DIM % 4 or node.HIDDEN_DIM % node.NHEADS:
        raise ValueError(
            f"MODEL.DETR.HIDDEN_DIM is {node.HIDDEN_DIM}: set it to a multiple of 4 (sines and cosines of two axes) "
            f"and of MODEL.DETR.NHEADS, {node.NHEADS}"
        )
    if cfg.MODEL.MASK_ON and (node.HIDDEN_DIM % (16 * NUM_GROUPS) or node.NHEADS % NUM_GROUPS):
        raise ValueError(
            f"MODEL.DETR.HIDDEN_DIM is {node.HIDDEN_DIM} and NHEADS {node.NHEADS}: the mask head's norms have "
            f"{NUM_GROUPS} groups, set them to multiples of {16 * NUM_GROUPS} and {NUM_GROUPS}"
        )


def _class_rows(cfg: CfgNode, categories: Categories) -> ClassRows:
    metadata = MetadataCatalog.get((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0])
    dataset_ids = dataset_ids_of(metadata, categories)
    if cfg.MODEL.DETR.RAW_CATEGORY_IDS:
        return ClassRows.of_category_ids(dataset_ids, cfg.MODEL.DETR.NUM_CLASSES)
    return ClassRows.of_labels(dataset_ids)


def _inference_options(cfg: CfgNode) -> InferenceOptions:
    node, merging = cfg.MODEL.DETR.TEST, cfg.MODEL.MASK_WISE_MERGING
    if not 0 < cfg.MODEL.MASK_THRESHOLD < 1:
        raise ValueError(f"MODEL.MASK_THRESHOLD is {cfg.MODEL.MASK_THRESHOLD}: it is a probability between 0 and 1")
    return InferenceOptions(
        score_threshold=node.SCORE_THRESHOLD,
        compat_dedup=node.COMPAT_DEDUP,
        merging=MergeOptions.from_config(merging) if merging.ENABLED else None,
        with_instances=node.INSTANCE_ON,
        mask_threshold=cfg.MODEL.MASK_THRESHOLD,
    )
