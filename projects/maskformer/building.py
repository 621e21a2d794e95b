"""From a config to the parts of the model."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone

from panoptic_segformer.checks import check_backbone
from panoptic_segformer.data.datasets import configured_categories
from panoptic_segformer.inference.merging import MergeOptions
from panoptic_segformer.inference.outputs import Outputs
from panoptic_segformer.modeling.frozen_norm import fold_frozen_norms
from panoptic_segformer.modeling.transformer import TransformerDecoder, TransformerEncoder

from .backbone import SWIN, build_swin
from .criterion import Criterion
from .inference import InferenceOptions
from .pixel_decoder import PixelDecoder
from .predictor import MaskFormerHead, Predictor

__all__ = ["build_parts"]

# The value of TRANSFORMER_IN_FEATURE for the output of the pixel decoder's encoder.
ENCODER = "transformer_encoder"
WITH_ENCODER, WITHOUT_ENCODER = "TransformerEncoderPixelDecoder", "BasePixelDecoder"
# Detectron2's default of MODEL.SEM_SEG_HEAD.NUM_CLASSES, in configs that do not give it.
UNSET_NUM_CLASSES = 54


def build_parts(cfg: CfgNode) -> dict[str, object]:
    """Return the arguments of the meta-architecture's constructor that a config stands for.

    Raises: ValueError: if a key has a value that it can't have, or disagrees with the datasets.
    """
    node = cfg.MODEL.MASK_FORMER
    categories = configured_categories(cfg)
    num_classes = categories.num_things + categories.num_stuff
    _check_classes(cfg, num_classes)
    backbone = _backbone(cfg)
    _check_choices(cfg, backbone.output_shape())
    divisibility = node.SIZE_DIVISIBILITY
    return {
        "backbone": backbone,
        "sem_seg_head": _head(cfg, backbone.output_shape(), num_classes),
        "criterion": Criterion(
            num_classes=num_classes,
            no_object_weight=node.NO_OBJECT_WEIGHT,
            mask_weight=node.MASK_WEIGHT,
            dice_weight=node.DICE_WEIGHT,
        ),
        "deep_supervision": node.DEEP_SUPERVISION,
        "inference_options": _inference_options(cfg),
        "categories": categories,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "size_divisibility": backbone.size_divisibility if divisibility < 0 else divisibility,
    }


def _backbone(cfg: CfgNode) -> Backbone:
    if cfg.MODEL.BACKBONE.NAME == SWIN:
        return build_swin(cfg)
    check_backbone(cfg)
    backbone = build_backbone(cfg)
    fold_frozen_norms(backbone)
    return backbone


def _head(cfg: CfgNode, shapes: Mapping[str, ShapeSpec], num_classes: int) -> MaskFormerHead:
    head, node = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    layers = {"num_heads": node.NHEADS, "feedforward_dim": node.DIM_FEEDFORWARD, "dropout": node.DROPOUT}
    encoder = None
    if head.PIXEL_DECODER_NAME == WITH_ENCODER:
        encoder = TransformerEncoder(dim=head.CONVS_DIM, num_layers=head.TRANSFORMER_ENC_LAYERS, **layers)
    source = node.TRANSFORMER_IN_FEATURE
    in_features = sorted(head.IN_FEATURES, key=lambda name: shapes[name].stride)
    in_channels = head.CONVS_DIM if source == ENCODER else shapes[source].channels
    pixel_decoder = PixelDecoder(
        in_channels=[shapes[name].channels for name in in_features],
        dim=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        norm=head.NORM,
        encoder=encoder,
    )
    predictor = Predictor(
        in_channels=in_channels,
        project=node.ENFORCE_INPUT_PROJ or in_channels != node.HIDDEN_DIM,
        num_queries=node.NUM_OBJECT_QUERIES,
        num_classes=num_classes,
        mask_dim=head.MASK_DIM,
        encoder=TransformerEncoder(dim=node.HIDDEN_DIM, num_layers=node.ENC_LAYERS, **layers),
        decoder=TransformerDecoder(dim=node.HIDDEN_DIM, num_layers=node.DEC_LAYERS, **layers),
    )
    return MaskFormerHead(pixel_decoder, predictor, in_features, source)


def _inference_options(cfg: CfgNode) -> InferenceOptions:
    test, merging = cfg.MODEL.MASK_FORMER.TEST, cfg.MODEL.MASK_WISE_MERGING
    return InferenceOptions(
        object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        merging=MergeOptions.from_config(merging) if merging.ENABLED else None,
        outputs=Outputs(test.PANOPTIC_ON, test.INSTANCE_ON, test.SEMANTIC_ON),
    )


def _check_classes(cfg: CfgNode, found: int) -> None:
    given = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if given not in (UNSET_NUM_CLASSES, found):
        name = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {given}, but dataset {name!r} has {found} thing and stuff classes: set "
            f"it to {found}"
        )


def _check_choices(cfg: CfgNode, shapes: Mapping[str, ShapeSpec]) -> None:
    """Raise ValueError if a key names something that does not exist, or a size is too small."""
    head, node = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    has_encoder = head.PIXEL_DECODER_NAME == WITH_ENCODER
    sources = [*shapes, ENCODER] if has_encoder else list(shapes)
    for key, given, known in (
        ("SEM_SEG_HEAD.NAME", head.NAME, ["MaskFormerHead"]),
        ("SEM_SEG_HEAD.PIXEL_DECODER_NAME", head.PIXEL_DECODER_NAME, [WITH_ENCODER, WITHOUT_ENCODER]),
        ("MASK_FORMER.TRANSFORMER_IN_FEATURE", node.TRANSFORMER_IN_FEATURE, sources),
        ("MASK_FORMER.PRE_NORM", node.PRE_NORM, [False]),
    ):
        if given not in known:
            raise ValueError(f"MODEL.{key} is {given!r}: set it to {' or '.join(map(repr, known))}")
    if not head.IN_FEATURES or not set(head.IN_FEATURES) <= set(shapes):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(head.IN_FEATURES)}, but the backbone gives {list(shapes)}: "
            "choose from these"
        )
    for key in ("NUM_OBJECT_QUERIES", "DEC_LAYERS"):
        if node[key] < 1:
            raise ValueError(f"MODEL.MASK_FORMER.{key} is {node[key]}: set it to 1 or more")
    for key, width in (("SEM_SEG_HEAD.CONVS_DIM", head.CONVS_DIM), ("MASK_FORMER.HIDDEN_DIM", node.HIDDEN_DIM)):
        if width % 4 or width % node.NHEADS:
            raise ValueError(
                f"MODEL.{key} is {width}: set it to a multiple of 4 (sines and cosines of two axes) and of "
                f"MODEL.MASK_FORMER.NHEADS, {node.NHEADS}"
            )
