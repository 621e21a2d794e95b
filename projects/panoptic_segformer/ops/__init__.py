"""Operators of the model, compiled or in pure PyTorch: multi-scale deformable attention, and masks for merging."""

from .decompositions import decompositions
from .extension import Backend, backend
from .mask_merging import mask_statistics, masks_above, paint_masks
from .ms_deform_attn import ms_deform_attn, ms_deform_attn_fused
from .reference import ms_deform_attn_fused_reference, ms_deform_attn_reference

__all__ = [
    "Backend",
    "backend",
    "decompositions",
    "mask_statistics",
    "masks_above",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "ms_deform_attn_fused_reference",
    "ms_deform_attn_reference",
    "paint_masks",
]
