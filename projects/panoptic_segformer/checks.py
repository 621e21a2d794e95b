"""Keys of the config whose values are checked before anything is built or evaluated.

What a check refuses would end in a bare KeyError, in another model than was meant, or late.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from .modeling.location_decoder import Location
from .modeling.mask_attention import NUM_MASK_LEVELS

__all__ = ["check_backbone", "check_choices", "check_features", "check_norms", "check_segments", "check_sizes"]

_QUERIES = ("decoupled", "joint")
_SEGMENTS = ("all", "things", "stuff")
# Of Detectron2's ResNet.
_DEPTHS = (18, 34, 50, 101, 152)


def check_choices(node: CfgNode) -> None:
    """Raise ValueError if a key of MODEL.PANOPTIC_SEGFORMER that names a choice has another value."""
    check_segments(node)
    _check_choice("MODEL.PANOPTIC_SEGFORMER.QUERIES", node.QUERIES, _QUERIES)
    _check_choice(
        "MODEL.PANOPTIC_SEGFORMER.LOCATION_DECODER.LOCATION", node.LOCATION_DECODER.LOCATION, map(str, Location)
    )


def check_segments(node: CfgNode) -> None:
    """Raise ValueError if MODEL.PANOPTIC_SEGFORMER.SEGMENTS is none of its choices."""
    _check_choice("MODEL.PANOPTIC_SEGFORMER.SEGMENTS", node.SEGMENTS, _SEGMENTS)


def check_backbone(cfg: CfgNode) -> None:
    """Raise ValueError if MODEL.BACKBONE.NAME or the depth of Detectron2's ResNet does not exist."""
    _check_choice("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, (name for name, _ in BACKBONE_REGISTRY))
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":
        _check_choice("MODEL.RESNETS.DEPTH", cfg.MODEL.RESNETS.DEPTH, _DEPTHS)


def check_norms(backbone: nn.Module, device: str) -> None:
    """Raise ValueError if ranks on a device can't share the statistics of a backbone's batch norm."""
    is_shared = any(isinstance(module, nn.SyncBatchNorm) for module in backbone.modules())
    # torch's would refuse processors among ranks in the first step, however few ranks there are.
    if is_shared and torch.device(device).type == "cpu" and torch.distributed.is_initialized():
        raise ValueError(
            "torch's synchronised batch norm runs on GPUs alone, and MODEL.DEVICE is 'cpu': set MODEL.RESNETS.NORM to "
            "naiveSyncBN, which Detectron2 computes itself, or to FrozenBN (MODEL.TIMM.SYNC_BATCH_NORM to False)"
        )


def check_features(node: CfgNode, given: Iterable[str]) -> None:
    """Raise ValueError if MODEL.PANOPTIC_SEGFORMER.IN_FEATURES is too short or names others than the backbone gives."""
    given = list(given)
    if len(node.IN_FEATURES) < NUM_MASK_LEVELS - 1:  # the neck adds one level
        raise ValueError(
            f"MODEL.PANOPTIC_SEGFORMER.IN_FEATURES is {list(node.IN_FEATURES)}: masks need at least "
            f"{NUM_MASK_LEVELS - 1} features, of which the backbone gives {given}"
        )
    if not set(node.IN_FEATURES) <= set(given):
        raise ValueError(
            f"MODEL.PANOPTIC_SEGFORMER.IN_FEATURES is {list(node.IN_FEATURES)}, but the backbone gives {given}: choose "
            "from these, or let the backbone give others by MODEL.RESNETS.OUT_FEATURES or MODEL.TIMM.STRIDES"
        )


def check_sizes(node: CfgNode, num_things: int, num_stuff: int) -> None:
    """Raise ValueError if a number of MODEL.PANOPTIC_SEGFORMER is too small.

    Sizes of decoders that are not built may be anything.

    Args:
        node: MODEL.PANOPTIC_SEGFORMER.
        num_things: number of thing classes that the model learns.
        num_stuff: likewise of stuff classes.
    """
    decoder, blocks = node.LOCATION_DECODER, node.MASK_DECODER
    is_joint = node.QUERIES == "joint"
    has_queries = is_joint or num_things > 0
    for key, given, least, is_used in (
        ("LOCATION_DECODER.NUM_LAYERS", decoder.NUM_LAYERS, 0, has_queries),
        ("LOCATION_DECODER.NUM_QUERIES", decoder.NUM_QUERIES, 1, has_queries),
        # Classifiers read the queries behind a block; things that are classified already need no block.
        (
            "MASK_DECODER.NUM_THING_BLOCKS",
            blocks.NUM_THING_BLOCKS,
            0 if decoder.NUM_LAYERS else 1,
            has_queries and not is_joint,
        ),
        ("MASK_DECODER.NUM_STUFF_BLOCKS", blocks.NUM_STUFF_BLOCKS, 1, num_stuff > 0 and not is_joint),
        ("MASK_DECODER.NUM_JOINT_BLOCKS", blocks.NUM_JOINT_BLOCKS, 1, is_joint),
        ("ENCODER.NUM_LAYERS", node.ENCODER.NUM_LAYERS, 1, True),
        ("MERGING.NUM_THING_CANDIDATES", node.MERGING.NUM_THING_CANDIDATES, 1, has_queries),
        ("LOSS.MASK_POINTS", node.LOSS.MASK_POINTS, 0, True),
        ("TEST.NUM_MASK_LAYERS", node.TEST.NUM_MASK_LAYERS, 0, True),
    ):
        if is_used and given < least:
            raise ValueError(f"MODEL.PANOPTIC_SEGFORMER.{key} is {given}: set it to {least} or more")


def _check_choice(key: str, given: object, known: Iterable[object]) -> None:
    known = list(known)
    if given not in known:
        raise ValueError(f"{key} is {given!r}: set it to one of {', '.join(map(repr, known))}")
