"""Modulated deformable convolution that predicts its own offsets, on CPU and GPU.

Zhu et al., "Deformable ConvNets v2", CVPR 2019. Parameters are named as in the released Panoptic FCN.
Shape legend: B pictures, C, D channels in and out, h, w size of a map.
"""

from __future__ import annotations

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from panoptic_segformer.modeling.precision import at_least_float32

__all__ = ["DeformableConv", "deformable_convolution"]

# Cells that a 3 x 3 kernel looks at.
NUM_CELLS = 9


class DeformableConv(nn.Module):
    """3x3 deformable convolution, norm and ReLU."""

    def __init__(self, in_channels: int, channels: int, norm: str) -> None:
        super().__init__()
        # A row and a column offset and a weight for each cell.
        self.offset_mask_conv = nn.Conv2d(in_channels, 3 * NUM_CELLS, 3, padding=1)
        self.dcnv2 = ModulatedConv(in_channels, channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, D, h, w)."""
        offsets, weights = self.offset_mask_conv(x).split([2 * NUM_CELLS, NUM_CELLS], dim=1)
        return F.relu(self.dcnv2(x, offsets, weights.sigmoid()))


class ModulatedConv(nn.Module):
    """3x3 convolution at given offsets with given weights, and a norm; it has a bias where there is no norm."""

    def __init__(self, in_channels: int, channels: int, norm: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, in_channels, 3, 3))
        self.bias = None if norm else nn.Parameter(torch.zeros(channels))
        self.norm = get_norm(norm, channels)
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, D, h, w).

        Args:
            x: the map.
            offsets: (B, 18, h, w), (row, column) of each cell, cells.
            weights: (B, 9, h, w) in [0, 1].
        """
        # Half precision would round the sampled places.
        tensors = [at_least_float32(tensor) for tensor in (x, offsets, weights, self.weight)]
        bias = None if self.bias is None else at_least_float32(self.bias)
        y = deformable_convolution(*tensors, bias).to(x.dtype)
        return y if self.norm is None else self.norm(y)


def deformable_convolution(x: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Return the modulated deformable convolution (B, D, h, w) of a map padded with zeros.

    Args:
        x: (B, C, h, w).
        offsets: (B, 18, h, w), (row, column) of each cell, cells.
        weights: (B, 9, h, w) in [0, 1].
        kernel: (D, C, 3, 3).
        bias: (D,), or None.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled():
        # The backward pass of torchvision's operator takes four times as long there.
        return _by_grid_sample(x, offsets, weights, kernel, bias)
    # The operator would read outside of the map, and crash, where an offset is not a number; the weight there is none
    # either, so that it is still seen in the result.
    return deform_conv2d(x, offsets.nan_to_num(), kernel, bias, padding=1, mask=weights)


def _by_grid_sample(x: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    batch, channels, height, width = x.shape
    offsets = offsets.view(batch, NUM_CELLS, 2, height, width)
    steps = torch.arange(-1, 2, device=x.device)
    rows = torch.arange(height, device=x.device)[:, None] + steps.repeat_interleave(3)[:, None, None]
    columns = torch.arange(width, device=x.device) + steps.repeat(3)[:, None, None]
    # grid_sample counts from -1 to 1, and from the edges of the outer cells.
    y_places = (2 * (rows + offsets[:, :, 0]) + 1) / height - 1
    x_places = (2 * (columns + offsets[:, :, 1]) + 1) / width - 1
    grid = torch.stack([x_places, y_places], dim=-1).flatten(1, 2)
    sampled = F.grid_sample(x, grid, align_corners=False).view(batch, channels, NUM_CELLS, height * width)
    sampled = sampled * weights.view(batch, 1, NUM_CELLS, height * width)
    result = (kernel.flatten(1) @ sampled.flatten(1, 2)).unflatten(2, (height, width))
    return result if bias is None else result + bias[:, None, None]
