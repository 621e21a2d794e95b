"""Operators of the model: multi-scale deformable attention, compiled or in pure PyTorch."""

from .ms_deform_attn import Backend, backend, ms_deform_attn
from .reference import ms_deform_attn_reference

__all__ = ["Backend", "backend", "ms_deform_attn", "ms_deform_attn_reference"]
