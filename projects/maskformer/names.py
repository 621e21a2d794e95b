"""Names of the authors' checkpoints to ours.

They differ for Swin backbones, alone or inside the model, and in files of before the release.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from panoptic_segformer.checkpoint.backbone_names import NO_WEIGHTS, author_rules, rename
from panoptic_segformer.checkpoint.convert import TIMM_RULES

__all__ = ["convert_names"]

BACKBONE = "backbone."
# Parts of the pixel decoder, which files of before the release have directly in the head.
_OLD_NAME = re.compile(r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)")


def convert_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under our names; names that are ours already stay.

    Left out are tables of Swin that follow from the window's size, and of a classifier what is behind the backbone.
    """
    if "layers.0.downsample.reduction.weight" in state_dict:
        state_dict = _with_prefix(state_dict)
    authors = author_rules([name.removeprefix(BACKBONE) for name in state_dict if name.startswith(BACKBONE)])
    rules = (*authors, *TIMM_RULES) if authors else ()
    converted = {}
    for name, tensor in state_dict.items():
        if name.startswith(BACKBONE) and rules:
            if name.endswith(NO_WEIGHTS):
                continue
            name = BACKBONE + rename(name.removeprefix(BACKBONE), rules)
        converted[_OLD_NAME.sub("sem_seg_head.pixel_decoder.", name)] = tensor
    return converted


def _with_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a bare Swin with the prefix that they have inside the model.

    Detectron2 has given some of them names of the model already, by their ends: the names that are left know better.
    """
    matched = {name: tensor for name, tensor in state_dict.items() if name.startswith(BACKBONE)}
    bare = {
        BACKBONE + name: tensor for name, tensor in state_dict.items() if name.startswith(("layers.", "patch_embed."))
    }
    return matched | bare
