"""Convolutional parts of Panoptic FCN: positions, kernels, and the features that kernels are applied to.

Paper, sections 3.2 to 3.4. Modules are named as in the released models, so that their checkpoints load.
Shape legend: B pictures, C channels, h, w size of a level, H, W size of the padded picture, K_th thing classes,
K stuff classes with "any thing" in front, D length of a kernel as it is predicted, E length of a kernel in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torch.nn import functional as F

from .deformable import DeformableConv

__all__ = [
    "MASK_STRIDE",
    "FeatureEncoder",
    "HeadOutputs",
    "KernelGenerator",
    "KernelHead",
    "PositionHead",
    "SemanticFPN",
    "TowerShape",
]

# Stride of the features that masks are made of, pixels.
MASK_STRIDE = 4
# Standard deviation of the initial weights of convolutions that predict something.
PREDICTOR_STD = 0.01


@dataclass(frozen=True)
class TowerShape:
    """What a tower of convolutions consists of, see MODEL.POSITION_HEAD."""

    num_convs: int
    channels: int
    deformable: bool
    with_coordinates: bool
    norm: str

    @classmethod
    def from_config(cls, node: CfgNode) -> TowerShape:
        """Return the shape that a node of the config describes."""
        return cls(node.NUM_CONVS, node.CONVS_DIM, node.DEFORM, node.COORD, node.NORM)


class ConvTower(nn.Sequential):
    """3x3 convolutions, each with norm and ReLU."""

    def __init__(self, name: str, in_channels: int, shape: TowerShape) -> None:
        super().__init__()
        self.with_coordinates = shape.with_coordinates
        in_channels += 2 * shape.with_coordinates
        for number in range(1, shape.num_convs + 1):
            self.add_module(f"{name}_head_{number}", _convolution(in_channels, shape))
            in_channels = shape.channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the tower's channels."""
        return super().forward(append_coordinates(x) if self.with_coordinates else x)


def _convolution(in_channels: int, shape: TowerShape) -> nn.Module:
    if shape.deformable:
        return DeformableConv(in_channels, shape.channels, shape.norm)
    norm = get_norm(shape.norm, shape.channels)
    return Conv2d(in_channels, shape.channels, 3, padding=1, bias=norm is None, norm=norm, activation=F.relu)


def append_coordinates(x: Tensor) -> Tensor:
    """Append two channels in [-1, 1] to (B, C, h, w): the row, then the column.

    The released code calls them x and y; the order is what its checkpoints know.
    """
    batch, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)[:, None].expand(batch, 1, height, width)
    columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device).expand(batch, 1, height, width)
    return torch.cat([x, rows, columns], dim=1)


class PositionHead(nn.Module):
    """Where centres of things and regions of stuff are, on every level with the same weights."""

    def __init__(self, in_channels: int, shape: TowerShape, num_things: int, num_stuff: int, bias: float) -> None:
        """Build the head.

        Args:
            in_channels: of the levels.
            shape: of the tower.
            num_things: K_th.
            num_stuff: K.
            bias: initial one of all classes.
        """
        super().__init__()
        self.position_head = ConvTower("position_head", in_channels, shape)
        self.out_inst = _predictor(shape.channels, num_things, bias)
        self.out_sem = _predictor(shape.channels, num_stuff, bias)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, h, w) to logits of things (B, K_th, h, w) and stuff (B, K, h, w)."""
        x = self.position_head(level)
        return self.out_inst(x), self.out_sem(x)


class KernelHead(nn.Module):
    """The kernel at every cell, on every level with the same weights."""

    def __init__(self, in_channels: int, shape: TowerShape) -> None:
        super().__init__()
        self.kernel_head = ConvTower("kernel_head", in_channels, shape)
        self.out_conv = _predictor(shape.channels, shape.channels, 0.0)

    def forward(self, level: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, D, h, w)."""
        return self.out_conv(self.kernel_head(level))


class FeatureEncoder(nn.Module):
    """Features that kernels are applied to."""

    def __init__(self, in_channels: int, shape: TowerShape) -> None:
        super().__init__()
        self.encode_head = ConvTower("encode_head", in_channels, shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H / 4, W / 4) to (B, E, H / 4, W / 4)."""
        return self.encode_head(x)


class KernelGenerator(nn.Module):
    """Kernels as they are predicted, brought to the length of the features."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.embed_extractor = _predictor(dim, out_dim, 0.0, kernel_size=1)

    def forward(self, kernels: Tensor) -> Tensor:
        """Map (..., D) to (..., E), of any number of kernels, also none."""
        layer = self.embed_extractor
        return F.linear(kernels, layer.weight.flatten(1).to(kernels.dtype), layer.bias.to(kernels.dtype))


class SemanticFPN(nn.Module):
    """The levels of a pyramid brought to stride 4 and added: Kirillov et al., "Panoptic FPN", CVPR 2019."""

    def __init__(self, strides: Mapping[str, int], in_channels: int, channels: int, norm: str) -> None:
        """Build the network.

        Args:
            strides: of each level, by its name.
            in_channels: of the levels.
            channels: of the result.
            norm: of Detectron2, by name.
        """
        super().__init__()
        self.in_features = list(strides)
        for name, stride in strides.items():
            self.add_module(name, _upsampling_convolutions(stride, in_channels, channels, norm))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Map the pyramid's levels to (B, C, H / 4, W / 4)."""
        return sum(self.get_submodule(name)(features[name]) for name in self.in_features)


def _upsampling_convolutions(stride: int, in_channels: int, channels: int, norm: str) -> nn.Sequential:
    """Return convolutions with x2 upsampling behind each, but for stride 4, which needs none."""
    num_doublings = (stride // MASK_STRIDE).bit_length() - 1
    layers: list[nn.Module] = []
    for _ in range(max(1, num_doublings)):
        norm_layer = get_norm(norm, channels)
        conv = Conv2d(in_channels, channels, 3, padding=1, bias=norm_layer is None, norm=norm_layer, activation=F.relu)
        c2_msra_fill(conv)
        layers.append(conv)
        if num_doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        in_channels = channels
    return nn.Sequential(*layers)


def _predictor(in_channels: int, channels: int, bias: float, kernel_size: int = 3) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(conv.weight, std=PREDICTOR_STD)
    nn.init.constant_(conv.bias, bias)
    return conv


@dataclass(frozen=True)
class HeadOutputs:
    """What the network makes of a batch.

    Attributes:
        thing_logits: per level (B, K_th, h, w).
        stuff_logits: per level (B, K, h, w).
        kernel_maps: per level (B, D, h, w).
        features: (B, E, H / 4, W / 4).
    """

    thing_logits: Sequence[Tensor]
    stuff_logits: Sequence[Tensor]
    kernel_maps: Sequence[Tensor]
    features: Tensor

    def of_picture(self, picture: int) -> HeadOutputs:
        """Return the outputs of one picture, without the dimension B."""
        levels = (
            [level[picture] for level in maps] for maps in (self.thing_logits, self.stuff_logits, self.kernel_maps)
        )
        return HeadOutputs(*levels, self.features[picture])
