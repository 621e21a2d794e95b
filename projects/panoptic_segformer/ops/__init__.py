"""Operators of the model: multi-scale deformable attention, compiled or in pure PyTorch."""

from .decompositions import decompositions
from .extension import Backend, backend
from .ms_deform_attn import ms_deform_attn, ms_deform_attn_fused
from .reference import ms_deform_attn_fused_reference, ms_deform_attn_reference

__all__ = [
    "Backend",
    "backend",
    "decompositions",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "ms_deform_attn_fused_reference",
    "ms_deform_attn_reference",
]
