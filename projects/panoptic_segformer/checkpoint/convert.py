"""Names of the released checkpoints to ours.

The released code stands on mmdetection, torchvision's ResNet and its own PVTv2 and Swin, ours on Detectron2 and timm.
Tensors are equal, only names differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from .backbone_names import NO_WEIGHTS, PVT_RULES, SWIN_RULES, author_rules, rename

__all__ = ["ALL_RULES", "convert_released", "is_released"]

PREFIX = "backbone."
# Applied in this order to every key; published files may carry the older names that the first three lines renew.
RULES: tuple[tuple[str, str], ...] = (
    (r"\.mask_head\.", ".things_mask_head."),
    (r"\.mask_head2\.", ".stuff_mask_head."),
    (r"\.cls_branches2\.", ".cls_thing_branches."),
    # ResNet
    (r"^backbone\.(conv1|bn1)\.", r"backbone.stem.\1."),
    (r"^backbone\.layer1\.", "backbone.res2."),
    (r"^backbone\.layer2\.", "backbone.res3."),
    (r"^backbone\.layer3\.", "backbone.res4."),
    (r"^backbone\.layer4\.", "backbone.res5."),
    (r"^(backbone\..*)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^(backbone\.res.*)\.downsample\.0\.", r"\1.shortcut."),
    (r"^(backbone\.res.*)\.downsample\.1\.", r"\1.shortcut.norm."),
    # Neck; the extra level follows the three projected ones.
    (r"^neck\.convs\.(\d)\.conv\.", r"neck.convs.\1."),
    (r"^neck\.convs\.(\d)\.gn\.", r"neck.norms.\1."),
    (r"^neck\.extra_convs\.0\.conv\.", "neck.convs.3."),
    (r"^neck\.extra_convs\.0\.gn\.", "neck.norms.3."),
    # Encoder and location decoder
    (r"^bbox_head\.transformer\.level_embeds", "encoder.level_embedding"),
    (r"^bbox_head\.transformer\.reference_points\.", "location_decoder.reference_points."),
    (r"^bbox_head\.transformer\.encoder\.", "encoder."),
    (r"^bbox_head\.transformer\.decoder\.", "location_decoder."),
    (r"^(encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attention."),
    (r"^(location_decoder\.layers\.\d+)\.attentions\.0\.attn\.", r"\1.self_attention."),
    (r"^(location_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.cross_attention."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".feed_forward.linear1."),
    (r"\.ffns\.0\.layers\.1\.", ".feed_forward.linear2."),
    (r"(\.layers\.\d+)\.norms\.0\.", r"\1.norm1."),
    (r"(\.layers\.\d+)\.norms\.1\.", r"\1.norm2."),
    (r"(\.layers\.\d+)\.norms\.2\.", r"\1.norm3."),
    (r"^bbox_head\.query_embedding\.", "location_decoder.query_embedding."),
    (r"^bbox_head\.cls_branches\.", "location_decoder.class_heads."),
    (r"^bbox_head\.reg_branches\.", "location_decoder.box_heads."),
    # Mask decoders
    (r"^bbox_head\.cls_thing_branches\.", "thing_mask_decoder.unused_class_heads."),
    (r"^bbox_head\.reg_branches2\.", "thing_mask_decoder.unused_box_heads."),
    (r"^bbox_head\.stuff_query\.", "stuff_mask_decoder.query_embedding."),
    (r"^bbox_head\.cls_stuff_branches\.", "stuff_mask_decoder.class_heads."),
    (r"^bbox_head\.things_mask_head\.", "thing_mask_decoder."),
    (r"^bbox_head\.stuff_mask_head\.", "stuff_mask_decoder."),
    (r"(_mask_decoder\.blocks\.\d+)\.attn\.", r"\1.cross_attention."),
    (r"(_mask_decoder\.blocks\.\d+)\.head_norm", r"\1.norm"),
    (r"(_mask_decoder\.blocks\.\d+)\.norm3\.", r"\1.self_norm."),
    (r"(_mask_decoder\.blocks\.\d+)\.mlp\.fc", r"\1.feed_forward.linear"),
    (r"(_mask_decoder)\.attnen\.", r"\1.final_attention."),
    (r"\.linear_l1\.0\.", ".fusion.head_mixers.0."),
    (r"\.linear_l2\.0\.", ".fusion.head_mixers.1."),
    (r"\.linear_l3\.0\.", ".fusion.head_mixers.2."),
    (r"\.linear\.0\.", ".fusion.fuse."),
    # Box regressors count their ReLUs as layers.
    (r"(box_heads\.\d+)\.0\.", r"\1.layers.0."),
    (r"(box_heads\.\d+)\.2\.", r"\1.layers.1."),
    (r"(box_heads\.\d+)\.4\.", r"\1.layers.2."),
)
# What timm's names of a backbone become inside ours: `features_only` models have their stages as direct children.
TIMM_RULES: tuple[tuple[str, str], ...] = (
    (r"^norm0\.", "output_norms.res2."),
    (r"^norm1\.", "output_norms.res3."),
    (r"^norm2\.", "output_norms.res4."),
    (r"^norm3\.", "output_norms.res5."),
    (r"^(stages|layers)\.(\d)\.", r"model.\1_\2."),
    (r"^patch_embed\.", "model.patch_embed."),
)
# Whoever keeps conversions has to renew them when any of these change.
ALL_RULES = (RULES, TIMM_RULES, PVT_RULES, SWIN_RULES)


def is_released(names: Iterable[str]) -> bool:
    """Return whether the names of tensors are those of a released Panoptic SegFormer."""
    keys = [re.sub(r"^module\.", "", name) for name in names]
    return any(key.startswith("bbox_head.stuff_query.") for key in keys) and any(
        key.startswith("bbox_head.transformer.level_embeds") for key in keys
    )


def convert_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a released checkpoint under our names.

    The counters of batch norm are left out, Detectron2's frozen batch norm has none, and so are the tables of Swin
    that follow from the window's size.
    """
    kept = {re.sub(r"^module\.", "", key): value for key, value in state_dict.items() if not key.endswith(NO_WEIGHTS)}
    names = author_rules([key.removeprefix(PREFIX) for key in kept])
    backbone_rules = (*names, *TIMM_RULES) if names else ()  # ResNets are Detectron2's
    return {_our_name(key, backbone_rules): value for key, value in kept.items()}


def _our_name(key: str, backbone_rules: tuple[tuple[str, str], ...]) -> str:
    if backbone_rules and key.startswith(PREFIX):
        return PREFIX + rename(key.removeprefix(PREFIX), backbone_rules)
    return rename(key, RULES)
