"""Names of released DETR checkpoints to ours.

Three forms exist: the authors' own (`detr.backbone.0.body.layer1...`), that of their box models, without the first
prefix, and their Detectron2 wrapper's (`detr.detr.backbone.0.backbone.res2...`). Tensors are equal, only names differ;
rows of the class head are gathered where the model has one per class of the dataset alone. Detectron2's checkpointer
drops tensors of known names and other shapes before they come here, and such are the class rows of a box model: it is
to be given as MODEL.DETR.FROZEN_WEIGHTS then.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from panoptic_segformer.checkpoint.backbone_names import NO_WEIGHTS, rename

from .class_rows import ClassRows

__all__ = ["convert_upstream", "is_upstream"]

# Rows of the class head in the authors' panoptic checkpoints: category ids below 250 and "no object".
RELEASED_ROWS = 251
# Names of the wrapper that are no weights: how much the classes count in the loss, and the pictures' normalisation.
WRAPPER_CONSTANTS = ("criterion.empty_weight", "pixel_mean", "pixel_std")
RULES: tuple[tuple[str, str], ...] = (
    (r"^(detr\.)+", ""),
    (r"^backbone\.0\.(body|backbone)\.", "backbone."),
    # torchvision's ResNet to Detectron2's
    (r"^backbone\.(conv1|bn1)\.", r"backbone.stem.\1."),
    (r"^backbone\.layer1\.", "backbone.res2."),
    (r"^backbone\.layer2\.", "backbone.res3."),
    (r"^backbone\.layer3\.", "backbone.res4."),
    (r"^backbone\.layer4\.", "backbone.res5."),
    (r"^(backbone\.(?:stem|res\d)\b.*)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^(backbone\..*)\.downsample\.0\.", r"\1.shortcut."),
    (r"^(backbone\..*)\.downsample\.1\.", r"\1.shortcut.norm."),
)


def is_upstream(state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether the keys are those of DETR's authors, in one of their forms."""
    return any(rename(name, RULES[:1]).startswith("backbone.0.") for name in state_dict)


def convert_upstream(state_dict: Mapping[str, Tensor], classes: ClassRows) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of the authors under our names, with the model's rows of classes."""
    converted = {
        rename(name, RULES): tensor
        for name, tensor in state_dict.items()
        if name not in WRAPPER_CONSTANTS and not name.endswith(NO_WEIGHTS)
    }
    for name in ("class_embed.weight", "class_embed.bias"):
        if name in converted:
            converted[name] = _own_rows(converted[name], classes)
    return converted


def _own_rows(rows: Tensor, classes: ClassRows) -> Tensor:
    """Return the rows of the dataset's categories and of "no object", where both sides allow it."""
    has_own_rows = classes.num_rows == len(classes.dataset_ids) + 1
    if len(rows) != RELEASED_ROWS or not has_own_rows or max(classes.dataset_ids) >= RELEASED_ROWS - 1:
        return rows
    return rows[torch.tensor([*classes.dataset_ids, RELEASED_ROWS - 1])]
