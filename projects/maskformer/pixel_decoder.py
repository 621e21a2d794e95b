"""From features of the backbone to mask features at the finest of their strides.

Paper, section 3.4 (pixel-level module) and appendix A.1. Names of parameters are those of released checkpoints.
Shape legend: B pictures, D width, S cells of the coarsest feature; features are (B, C, h, w), finest first.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import Conv2d, get_norm
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_segformer.modeling.levels import FeatureLevels
from panoptic_segformer.modeling.position_encoding import sine_position_encoding
from panoptic_segformer.modeling.transformer import TransformerEncoder

__all__ = ["PixelDecoder", "encode_map", "grid_encoding", "projection"]


class PixelDecoder(nn.Module):
    """A feature pyramid whose finest level becomes the mask features.

    With a transformer encoder on the coarsest feature it is the authors' TransformerEncoderPixelDecoder, without one
    their BasePixelDecoder.
    """

    def __init__(
        self, *, in_channels: Sequence[int], dim: int, mask_dim: int, norm: str, encoder: TransformerEncoder | None
    ) -> None:
        """Build the decoder.

        Args:
            in_channels: of the features, finest first.
            dim: width D of the pyramid and of the encoder.
            mask_dim: width of the mask features.
            norm: Detectron2's name of the norm behind convolutions.
            encoder: for the coarsest feature; None where there is none.
        """
        super().__init__()
        *finer, coarsest = in_channels
        for number, channels in enumerate(finer, start=1):
            self.add_module(f"adapter_{number}", _convolution(channels, dim, 1, norm))
            self.add_module(f"layer_{number}", _convolution(dim, dim, 3, norm, F.relu))
        if encoder is not None:
            self.input_proj = projection(coarsest, dim)
            # The one child gives its parameters the prefix that they have in checkpoints.
            self.transformer = nn.ModuleDict({"encoder": encoder})
        self.has_encoder = encoder is not None
        self.num_features = len(in_channels)
        first_channels = coarsest if encoder is None else dim
        self.add_module(f"layer_{self.num_features}", _convolution(first_channels, dim, 3, norm, F.relu))
        self.mask_features = Conv2d(dim, mask_dim, 3, padding=1)
        weight_init.c2_xavier_fill(self.mask_features)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return mask features (B, mask_dim, h, w) of the finest size, and the encoder's output (B, D, h', w')."""
        *finer, x = features
        encoded = None
        if self.has_encoder:
            x = encoded = encode_map(self.transformer["encoder"], self.input_proj(x))
        x = self.get_submodule(f"layer_{self.num_features}")(x)
        for number in range(len(finer), 0, -1):
            lateral = self.get_submodule(f"adapter_{number}")(finer[number - 1])
            x = lateral + F.interpolate(x, lateral.shape[-2:], mode="nearest")
            x = self.get_submodule(f"layer_{number}")(x)
        return self.mask_features(x), encoded


def encode_map(encoder: TransformerEncoder, x: Tensor) -> Tensor:
    """Return a map (B, D, h, w) after an encoder that sees all its cells, padding as well."""
    tokens = encoder(x.flatten(2).transpose(1, 2), grid_encoding(x))
    return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


def grid_encoding(x: Tensor) -> Tensor:
    """Return DETR's sine encoding (1, S, D) of the cells of a map (B, D, h, w): half for rows, half for columns."""
    (encoding,) = sine_position_encoding(FeatureLevels([x], [[(x.shape[-2], x.shape[-1])]]), first=1.0)
    return encoding.flatten(2).transpose(1, 2).to(x.dtype)


def projection(in_channels: int, out_channels: int) -> Conv2d:
    """Return a 1x1 convolution."""
    convolution = Conv2d(in_channels, out_channels, 1)
    weight_init.c2_xavier_fill(convolution)
    return convolution


def _convolution(in_channels: int, out_channels: int, size: int, norm: str, activation: object = None) -> Conv2d:
    convolution = Conv2d(
        in_channels,
        out_channels,
        size,
        padding=size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=activation,
    )
    weight_init.c2_xavier_fill(convolution)
    return convolution
