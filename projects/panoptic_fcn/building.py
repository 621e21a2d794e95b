"""From a config to the parts of Panoptic FCN."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import Backbone

from panoptic_segformer.class_numbers import with_class_numbers
from panoptic_segformer.data.datasets import configured_categories
from panoptic_segformer.inference.merging import MergeOptions

from .backbone import build_pyramid
from .heads import (
    MASK_STRIDE,
    FeatureEncoder,
    KernelGenerator,
    KernelHead,
    PositionHead,
    SemanticFPN,
    TowerShape,
)
from .heat_maps import HeatMapOptions
from .inference import CombineOptions, InferenceOptions
from .kernels import KernelOptions
from .losses import Criterion
from .targets import TargetOptions

__all__ = ["build_parts"]

# Windows that scores of things are averaged in, cells: the larger one from p6 on.
POOL_SIZE, COARSE_POOL_SIZE, COARSE_STRIDE = 3, 5, 64


def build_parts(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of the meta-architecture's constructor that a config stands for.

    Raises: ValueError: if a key has a value that it can't have.
    """
    categories = configured_categories(cfg)
    if not categories.num_things:
        raise ValueError("Panoptic FCN needs a thing class, but the dataset has none: choose another model")
    cfg = with_class_numbers(
        cfg,
        {
            "MODEL.POSITION_HEAD.THING.NUM_CLASSES": categories.num_things,
            "MODEL.POSITION_HEAD.STUFF.NUM_CLASSES": 1 + categories.num_stuff,
        },
    )
    model = cfg.MODEL
    _check_choices(model)
    pyramid = build_pyramid(cfg)
    shapes = pyramid.output_shape()
    _check_levels(model, pyramid)
    channels = model.FPN.OUT_CHANNELS
    kernel_dim, mask_dim = model.KERNEL_HEAD.CONVS_DIM, model.FEATURE_ENCODER.CONVS_DIM
    levels = model.FEATURE_ENCODER.IN_FEATURES
    semantic = model.SEMANTIC_FPN
    return {
        "backbone": pyramid,
        "in_features": levels,
        "semantic_fpn": SemanticFPN(
            {name: shapes[name].stride for name in semantic.IN_FEATURES}, channels, semantic.CONVS_DIM, semantic.NORM
        ),
        "feature_encoder": FeatureEncoder(semantic.CONVS_DIM, TowerShape.from_config(model.FEATURE_ENCODER)),
        "position_head": _position_head(model.POSITION_HEAD, channels),
        "kernel_head": KernelHead(channels, TowerShape.from_config(model.KERNEL_HEAD)),
        "thing_generator": KernelGenerator(kernel_dim, mask_dim),
        "stuff_generator": KernelGenerator(kernel_dim, mask_dim),
        "criterion": _criterion(model),
        "target_options": _target_options(model),
        "kernel_options": _kernel_options(model, [shapes[name].stride for name in levels]),
        "inference_options": _inference_options(model),
        "categories": categories,
        "pixel_mean": model.PIXEL_MEAN,
        "pixel_std": model.PIXEL_STD,
    }


def _check_choices(model: CfgNode) -> None:
    for key, value, choices in (
        ("POSITION_HEAD.THING.CENTER_TYPE", model.POSITION_HEAD.THING.CENTER_TYPE, ("mass", "box")),
        ("INFERENCE.SIMILAR_TYPE", model.INFERENCE.SIMILAR_TYPE, ("cosine",)),
        ("SEMANTIC_FPN.COMMON_STRIDE", model.SEMANTIC_FPN.COMMON_STRIDE, (MASK_STRIDE,)),
    ):
        if value not in choices:
            raise ValueError(f"MODEL.{key} is {value!r}: set it to {' or '.join(map(repr, choices))}")


def _check_levels(model: CfgNode, pyramid: Backbone) -> None:
    strides = {name: shape.stride for name, shape in pyramid.output_shape().items()}
    # Sides of coarser levels are rounded up: doubled, they exceed those of the others.
    exact = [name for name, stride in strides.items() if stride <= pyramid.size_divisibility]
    for key, given in (("SEMANTIC_FPN", exact), ("FEATURE_ENCODER", list(strides))):
        names = list(model[key].IN_FEATURES)
        if not names or not set(names) <= set(given):
            raise ValueError(f"MODEL.{key}.IN_FEATURES is {names}: choose from {given}")
    scales, levels = model.KERNEL_HEAD.INSTANCE_SCALES, model.FEATURE_ENCODER.IN_FEATURES
    if len(scales) != len(levels):
        raise ValueError(
            f"MODEL.KERNEL_HEAD.INSTANCE_SCALES has {len(scales)} ranges for the {len(levels)} levels of "
            "MODEL.FEATURE_ENCODER.IN_FEATURES: give one per level"
        )


def _position_head(node: CfgNode, in_channels: int) -> PositionHead:
    thing, shape = node.THING, TowerShape.from_config(node)
    return PositionHead(in_channels, shape, thing.NUM_CLASSES, node.STUFF.NUM_CLASSES, thing.BIAS_VALUE)


def _criterion(model: CfgNode) -> Criterion:
    node = model.LOSS_WEIGHT
    return Criterion(
        position_weight=node.POSITION,
        segment_weight=node.SEGMENT,
        focal_alpha=node.FOCAL_LOSS_ALPHA,
        focal_gamma=node.FOCAL_LOSS_GAMMA,
        num_positions=model.POSITION_HEAD.THING.POS_NUM,
    )


def _target_options(model: CfgNode) -> TargetOptions:
    thing, stuff = model.POSITION_HEAD.THING, model.POSITION_HEAD.STUFF
    return TargetOptions(
        instance_scales=model.KERNEL_HEAD.INSTANCE_SCALES,
        center_type=thing.CENTER_TYPE,
        heat_maps=HeatMapOptions(thing.MIN_OVERLAP, thing.GAUSSIAN_SIGMA),
        num_things=thing.NUM_CLASSES,
        num_stuff=stuff.NUM_CLASSES,
        with_things_as_stuff=stuff.WITH_THING,
    )


def _kernel_options(model: CfgNode, strides: list[int]) -> KernelOptions:
    node = model.POSITION_HEAD
    return KernelOptions(
        thing_threshold=node.THING.THRES,
        num_things=node.THING.TOP_NUM // 2,
        pool_sizes=[COARSE_POOL_SIZE if stride >= COARSE_STRIDE else POOL_SIZE for stride in strides],
        stuff_threshold=node.STUFF.THRES,
        similarity_threshold=model.INFERENCE.SIMILAR_THRES,
        same_class=model.INFERENCE.CLASS_SPECIFIC,
    )


def _inference_options(model: CfgNode) -> InferenceOptions:
    node = model.INFERENCE
    combine = CombineOptions(node.COMBINE.INST_THRESH, node.COMBINE.OVERLAP_THRESH, node.COMBINE.STUFF_AREA_LIMIT)
    merging = model.MASK_WISE_MERGING
    return InferenceOptions(
        mask_threshold=node.INST_THRES,
        num_things=model.POSITION_HEAD.THING.TOP_NUM,
        combine=combine if node.COMBINE.ENABLE else None,
        merging=MergeOptions.from_config(merging) if merging.ENABLED else None,
    )
