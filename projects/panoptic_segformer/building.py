"""From a config to the parts of the model: which decoders there are, and how they learn and predict.

The forms of the model differ here and nowhere else in what exists; docs/forms.md describes them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import nn

from .checks import check_backbone, check_choices, check_features, check_norms, check_sizes
from .compilation import compile_parts
from .data.categories import Categories
from .data.datasets import configured_categories
from .inference.augmentation import Views
from .inference.merging import MergeOptions
from .inference.outputs import InferenceOptions, Outputs
from .modeling.encoder import Encoder
from .modeling.frozen_norm import fold_frozen_norms
from .modeling.location_decoder import Location, LocationDecoder
from .modeling.mask_attention import MaskFusion
from .modeling.mask_decoder import ClassifyingMaskDecoder, StuffMaskDecoder, ThingMaskDecoder
from .modeling.neck import Neck
from .modeling.recomputation import recompute_backbone, recompute_layers
from .training.criterion import Criterion, LossWeights
from .training.matcher import Matcher

__all__ = ["build_parts"]


def build_parts(cfg: CfgNode) -> dict[str, object]:
    """Return the arguments of the meta-architecture's constructor that a config stands for.

    Raises: ValueError: if a key has a value that it can't have, or the datasets lack what it asks for.
    """
    node = cfg.MODEL.PANOPTIC_SEGFORMER
    check_choices(node)
    check_backbone(cfg)
    categories = _categories(cfg)
    check_sizes(node, categories.num_things, categories.num_stuff)
    backbone = build_backbone(cfg)
    check_norms(backbone, cfg.MODEL.DEVICE)
    fold_frozen_norms(backbone)
    shapes = backbone.output_shape()
    check_features(node, shapes)
    encoder = Encoder(**_deformable_sizes(node), num_layers=node.ENCODER.NUM_LAYERS, num_points=node.ENCODER.NUM_POINTS)
    decoders = _decoders(node, categories)
    if node.ACTIVATION_CHECKPOINTING:
        recompute_backbone(backbone)
        recompute_layers(encoder.layers)
        recompute_layers(_layers(decoders))
    if node.COMPILE:
        compile_parts([encoder, *filter(None, decoders.values())], cfg.MODEL.DEVICE)
    return {
        "backbone": backbone,
        "in_features": node.IN_FEATURES,
        "neck": Neck([shapes[name].channels for name in node.IN_FEATURES], node.EMBED_DIM),
        "encoder": encoder,
        **decoders,
        "criterion": _criterion(node),
        "inference_options": _inference_options(node),
        "views": Views.from_config(cfg),
        "location": Location(node.LOCATION_DECODER.LOCATION),
        "categories": categories,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _sizes(node: CfgNode) -> dict[str, int]:
    return {"dim": node.EMBED_DIM, "num_heads": node.NUM_HEADS, "feedforward_dim": node.FEEDFORWARD_DIM}


def _deformable_sizes(node: CfgNode) -> dict[str, float]:
    return {**_sizes(node), "dropout": node.DROPOUT, "num_levels": len(node.IN_FEATURES) + 1}


def _decoders(node: CfgNode, categories: Categories) -> dict[str, nn.Module | None]:
    """Return the decoders of the form; those that it does not have are None."""
    sizes, blocks = _sizes(node), node.MASK_DECODER
    is_joint = node.QUERIES == "joint"
    # Queries are classified by the location decoder where it has layers for that.
    is_located = not is_joint and node.LOCATION_DECODER.NUM_LAYERS > 0
    has_queries = is_joint or categories.num_things > 0
    location_decoder, thing, classifying, stuff = None, None, None, None
    if has_queries:
        location_decoder = _location_decoder(node, categories.num_things if is_located else 0)
    if has_queries and is_located:
        thing = ThingMaskDecoder(**sizes, num_classes=categories.num_things, num_blocks=blocks.NUM_THING_BLOCKS)
    elif has_queries:
        classifying = ClassifyingMaskDecoder(
            **sizes,
            num_classes=categories.num_things + (categories.num_stuff if is_joint else 0),
            num_blocks=blocks.NUM_JOINT_BLOCKS if is_joint else blocks.NUM_THING_BLOCKS,
            with_self_attention=is_joint,
        )
    if categories.num_stuff and not is_joint:
        stuff = StuffMaskDecoder(**sizes, num_classes=categories.num_stuff, num_blocks=blocks.NUM_STUFF_BLOCKS)
    return {
        "location_decoder": location_decoder,
        "thing_mask_decoder": thing,
        "classifying_mask_decoder": classifying,
        "stuff_mask_decoder": stuff,
    }


def _layers(decoders: Mapping[str, nn.Module | None]) -> Iterator[nn.Module]:
    """Yield the layers and blocks of the decoders that there are, and what makes masks of attention."""
    for decoder in filter(None, decoders.values()):
        if isinstance(decoder, LocationDecoder):
            yield from decoder.layers
        else:
            yield from decoder.blocks
            yield from (module for module in decoder.modules() if isinstance(module, MaskFusion))


def _location_decoder(node: CfgNode, num_classes: int) -> LocationDecoder:
    decoder = node.LOCATION_DECODER
    return LocationDecoder(
        **_deformable_sizes(node),
        num_classes=num_classes,
        num_queries=decoder.NUM_QUERIES,
        num_layers=decoder.NUM_LAYERS,
        num_points=decoder.NUM_POINTS,
        location=Location(decoder.LOCATION),
    )


def _categories(cfg: CfgNode) -> Categories:
    """Return the classes that the config's datasets share and the model learns.

    They are checked against the class counts of the config.
    """
    categories = configured_categories(cfg)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    node = cfg.MODEL.PANOPTIC_SEGFORMER
    for key, given, found in (
        ("NUM_THING_CLASSES", node.NUM_THING_CLASSES, categories.num_things),
        ("NUM_STUFF_CLASSES", node.NUM_STUFF_CLASSES, categories.num_stuff),
    ):
        if given not in (0, found):
            raise ValueError(
                f"MODEL.PANOPTIC_SEGFORMER.{key} is {given}, but dataset {names[0]!r} has {found}: set the key to "
                f"{found}, or to 0 to take the dataset's number"
            )
    if node.SEGMENTS == "things":
        categories = dataclasses.replace(categories, stuff_ids=(), stuff_names=(), stuff_colors=())
    elif node.SEGMENTS == "stuff":
        categories = dataclasses.replace(categories, thing_ids=(), thing_names=(), thing_colors=())
    if not categories.num_things + categories.num_stuff:
        raise ValueError(
            f"dataset {names[0]!r} has no class to learn with MODEL.PANOPTIC_SEGFORMER.SEGMENTS {node.SEGMENTS!r}: "
            "set the key to 'all', or mark the categories in the dataset's json by isthing"
        )
    logging.getLogger(__name__).info(
        "%d thing and %d stuff classes of dataset %s", categories.num_things, categories.num_stuff, names[0]
    )
    return categories


def _criterion(node: CfgNode) -> Criterion:
    # Overlap of boxes is learned only where locations are boxes and are said to be.
    has_giou = node.LOCATION_DECODER.LOCATION == Location.BOX
    matcher = Matcher(
        class_cost=node.MATCHER.CLASS_COST,
        box_cost=node.MATCHER.BOX_COST,
        giou_cost=node.MATCHER.GIOU_COST if has_giou else 0.0,
        mask_stage_class_cost=node.MATCHER.MASK_STAGE_CLASS_COST,
        mask_cost=node.MATCHER.MASK_COST,
    )
    weights = LossWeights(
        thing_class=node.LOSS.CLASS_WEIGHT,
        box=node.LOSS.BOX_WEIGHT,
        giou=node.LOSS.GIOU_WEIGHT if has_giou else 0.0,
        mask=node.LOSS.MASK_WEIGHT,
        stuff_class=node.LOSS.STUFF_CLASS_WEIGHT,
    )
    return Criterion(matcher, weights, node.LOSS.MASK_POINTS)


def _inference_options(node: CfgNode) -> InferenceOptions:
    merging = MergeOptions.from_config(node.MERGING)
    outputs = Outputs(node.TEST.PANOPTIC_ON, node.TEST.INSTANCE_ON, node.TEST.SEMANTIC_ON)
    return InferenceOptions(node.MERGING.NUM_THING_CANDIDATES, node.TEST.NUM_MASK_LAYERS, merging, outputs)
