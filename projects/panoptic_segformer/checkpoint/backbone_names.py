"""Names of the authors' PVTv2 and Swin to timm's.

They hold for bare backbones and for the backbones inside the released Panoptic SegFormers. Tensors are equal.
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["NO_WEIGHTS", "PVT_RULES", "SWIN_RULES", "author_rules", "rename"]

# Ends of names that a model computes itself: counters of batch norm, and tables that follow from the window's size.
NO_WEIGHTS = ("num_batches_tracked", "relative_position_index", "attn_mask")

# Regular expressions and what they become, all applied in this order.
PVT_RULES: tuple[tuple[str, str], ...] = (
    (r"^patch_embed1\.", "patch_embed."),
    (r"^patch_embed2\.", "stages.1.downsample."),
    (r"^patch_embed3\.", "stages.2.downsample."),
    (r"^patch_embed4\.", "stages.3.downsample."),
    (r"^block1\.", "stages.0.blocks."),
    (r"^block2\.", "stages.1.blocks."),
    (r"^block3\.", "stages.2.blocks."),
    (r"^block4\.", "stages.3.blocks."),
    (r"^norm1\.", "stages.0.norm."),
    (r"^norm2\.", "stages.1.norm."),
    (r"^norm3\.", "stages.2.norm."),
    (r"^norm4\.", "stages.3.norm."),
    (r"\.dwconv\.dwconv\.", ".dwconv."),
)
# Patches are merged at the end of a stage there, at the start of the next one in timm; last first, so that none is
# moved twice.
SWIN_RULES: tuple[tuple[str, str], ...] = (
    (r"^layers\.2\.downsample\.", "layers.3.downsample."),
    (r"^layers\.1\.downsample\.", "layers.2.downsample."),
    (r"^layers\.0\.downsample\.", "layers.1.downsample."),
)


def author_rules(names: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return the rules for a backbone's tensors of these names; none if they are not the authors'."""
    if "patch_embed1.proj.weight" in names:
        return PVT_RULES
    if "layers.0.downsample.reduction.weight" in names:
        return SWIN_RULES
    return ()


def rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Return a tensor's name after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
