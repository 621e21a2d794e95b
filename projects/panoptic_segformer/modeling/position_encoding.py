"""Sine encoding of token positions relative to the picture they belong to.

Reference: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, in the normalised form of
Deformable DETR. Shape legend: B pictures, D model width, S tokens of all levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .levels import FeatureLevels

__all__ = ["sine_position_encoding"]

TEMPERATURE = 10000
# Keeps the normalisation finite; part of the released model's arithmetic.
EPSILON = 1e-6


def sine_position_encoding(levels: FeatureLevels, *, first: float = 0.5) -> list[Tensor]:
    """Return the encoding of every level: L tensors (B, D, Hl, Wl), first half of D for y, second for x.

    A picture's own cells get what they would get without padding. Padded cells get finite values that nothing
    reads (the released code divides by zero there, quirk Q9).

    Args:
        levels: the levels; their size tensor gives the precision, float32 at least.
        first: place of the first cell in units of cells: its centre, or 1 as in DETR, which counts cells instead.
    """
    dim = levels.maps[0].shape[1] // 2
    sizes = levels.size_tensor
    encodings = []
    for level, (height, width) in enumerate(levels.shapes):
        y = _encode(height, sizes[:, level, 0], dim, first)[:, :, :, None].expand(-1, -1, -1, width)
        x = _encode(width, sizes[:, level, 1], dim, first)[:, :, None, :].expand(-1, -1, height, -1)
        encodings.append(torch.cat([y, x], dim=1))
    return encodings


def _encode(length: int, valid: Tensor, dim: int, first: float) -> Tensor:
    """Return sines and cosines of `length` positions, scaled so that `valid` (B,) of them make a full circle.

    Returns: (B, dim, length), sine and cosine alternating.
    """
    places = torch.arange(length, dtype=valid.dtype, device=valid.device) + first
    angles = places / (valid[:, None] + EPSILON) * (2 * math.pi)
    index = torch.arange(dim, dtype=valid.dtype, device=valid.device)
    wavelengths = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / dim)
    angles = angles[:, None, :] / wavelengths[:, None]
    return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1, 2)
