"""timm's `features_only` models, made to take pictures of any size.

Who fills up what, when a side is no multiple of patch or window:

- Pictures, by TimmBackbone: at the bottom and on the right, for models with another `side_multiple` than 1. Features
  are cut to ceil(side / stride) again.
- Swin (first version), by PaddedSwinBlock: windows at the bottom and on the right, before they are shifted.
- Swin V2 and its variant CR, by timm: likewise at the bottom and on the right, but after the shift. The mask that keeps
  the wrapped rows apart then covers the zeros, and rows of the top and the bottom of a picture meet in a window. It
  stays so: no detector on them is known whose order would be another.
- DaViT, Twins, TinyViT and SAM 2's Hiera, by timm: windows at the bottom and on the right; they are not shifted.
- Convolutions with TensorFlow's padding (`tf_` models), by timm: both sides by half, the odd row or column at the
  bottom or on the right.

None of them masks the zeros of a window out of its attention.

Imports timm, which models with Detectron2's own ResNet need not have: import this module where it is used.
Shape legend: B pictures, C channels, H, W size of the tokens of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["create_timm_model", "freeze_up_to", "is_channels_last", "layer_numbers", "side_multiple"]

# Families that are built for one picture size unless told otherwise. Windows are shifted in the coarsest stage too,
# which timm leaves out where its default picture has only one window.
FREE_SIZE_OPTIONS = {
    "swin_": {"strict_img_size": False, "always_partition": True},
    "swinv2_": {"strict_img_size": False, "always_partition": True},
}


class PaddedSwinBlock(SwinTransformerBlock):
    """A block of Swin that fills up the last windows before it shifts them, as the detectors of its authors do.

    timm shifts first: the zeros then lie elsewhere, and other tokens meet in a window, whenever a map is no
    multiple of the window.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, H, W, C) to the same shape."""
        height, width = x.shape[1:3]
        bottom, right = (-size % window for size, window in zip((height, width), self.window_size, strict=True))
        windows = F.pad(self.norm1(x), (0, 0, 0, right, 0, bottom))
        x = x + self.drop_path1(self._attn(windows)[:, :height, :width])
        return x + self.drop_path2(self.mlp(self.norm2(x)))


def create_timm_model(name: str, options: Mapping[str, object], pretrained: bool = False) -> nn.Module:
    """Return timm's `features_only` model of a name.

    Args:
        name: timm's name of the model, with the tag of its weights or without.
        options: further arguments of the model; without `drop_path_rate` no path is dropped.
        pretrained: load timm's own weights, over the network unless timm has them in its cache.
    Raises: ValueError: if timm has no such model, it lacks features, an option or weights, or can't get the weights.
    """
    base = name.split(".")[0]
    if ":" not in name and not timm.is_model(base):
        near = ", ".join(get_close_matches(base, timm.list_models())) or "none"
        raise ValueError(f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have; near it: {near}")
    free_size = next((value for prefix, value in FREE_SIZE_OPTIONS.items() if base.startswith(prefix)), {})
    try:
        model = timm.create_model(name, features_only=True, pretrained=pretrained, **{**free_size, **options})
    except Exception as error:  # what the hub raises has no common base
        offline = "; without a network, get a file of its weights and give it as MODEL.TIMM.WEIGHTS"
        raise ValueError(
            f"timm can't make {name!r} a backbone with {dict(options)}: {error}; check MODEL.TIMM.NAME, OPTIONS and "
            f"DROP_PATH{offline if pretrained else ''}"
        ) from error
    for module in model.modules():
        if type(module) is SwinTransformerBlock:  # timm has no argument for the kind of block
            module.__class__ = PaddedSwinBlock
        elif isinstance(module, timm.layers.DropPath) and "drop_path_rate" not in options:
            module.drop_prob = 0.0
        elif hasattr(module, "dynamic_img_pad"):
            module.dynamic_img_pad = True  # to a multiple of the patch, as the authors' detectors
    return model


def side_multiple(model: nn.Module, strides: Mapping[int, int]) -> int:
    """Return what a picture's sides must be multiples of: 1, or the coarsest stride.

    The second is for models that would leave out the last rows and columns of other pictures, as unpadded patches
    do, or that put features of several strides together.

    Args:
        model: as `create_timm_model` gives it.
        strides: stride of each feature in use, by its position among the model's features.
    Raises: ValueError: if the model takes neither, but one size alone.
    """
    coarsest = max(strides.values())
    for multiple, side in ((1, 2 * coarsest + 1), (coarsest, 2 * coarsest)):
        expected = [-(-side // stride) for stride in strides.values()]
        try:
            sizes = _feature_sizes(model, side)
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error) or repr(error)
            continue
        # Some models of timm declare more features than they return.
        found = [sizes[position] for position in strides if position < len(sizes)]
        if found == expected:
            return multiple
        reason = f"its features have {found} rows, where their strides {list(strides.values())} would give {expected}"
    raise ValueError(
        f"this timm model does not take pictures of any size, such as {side} x {side} pixels: {reason}; choose one "
        "without a fixed input size as MODEL.TIMM.NAME, or make it free by MODEL.TIMM.OPTIONS"
    )


def _feature_sizes(model: nn.Module, side: int) -> list[int]:
    """Return the height of each feature of a square picture, without computing anything if that can be."""
    tensors = {name: tensor.to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    image = next(model.parameters()).new_zeros(1, 3, side, side)
    was_training = model.training
    model.eval()  # batch norm of one picture
    try:
        with torch.no_grad():
            try:
                features = torch.func.functional_call(model, tensors, image.to("meta"))
            except RuntimeError:  # tensors that the model has not registered stay behind, so that devices differ
                features = model(image)
    finally:
        model.train(was_training)
    axis = 1 if is_channels_last(model) else 2
    return [feature.shape[axis] for feature in features]


def is_channels_last(model: nn.Module) -> bool:
    """Return whether the features are (B, H, W, C)."""
    return getattr(model, "output_fmt", None) == "NHWC"


def freeze_up_to(model: nn.Module, modules: list[str]) -> None:
    """Stop the learning of the named modules and of all that stands in front of them, batch norm's statistics too."""
    prefixes = tuple(f"{_plain_name(module)}." for module in modules)
    ordered = list(model.named_modules())
    inside = [i for i, (name, _) in enumerate(ordered) if f"{_plain_name(name)}.".startswith(prefixes)]
    frozen = ordered[: max(inside, default=-1) + 1]
    for _, module in frozen:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    norms = [name for name, module in frozen if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms:
        timm.utils.freeze(model, norms)


def layer_numbers(model: nn.Module, name: str, options: Mapping[str, object]) -> dict[str, int]:
    """Return the layer of each parameter by name, 0 at the picture.

    The whole model knows the layers, and its `features_only` form names them otherwise.

    Args:
        model: as `create_timm_model` gives it for `name` and `options`.
        name: see there.
        options: see there.
    Raises: ValueError: if timm does not know the model's layers.
    """
    with torch.device("meta"):
        whole = timm.create_model(name, **options)
    if not hasattr(whole, "group_matcher"):
        raise ValueError(f"timm does not know the layers of {name!r}: set SOLVER.LAYER_DECAY to 1.0")
    layers = timm.models.group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    by_plain_name = {_plain_name(own): layer for own, layer in layers.items()}
    return {own: by_plain_name[_plain_name(own.removeprefix("model."))] for own, _ in model.named_parameters()}


def _plain_name(name: str) -> str:
    """Return a name that is the same in both forms: `features_only` ones have some underscores in place of dots."""
    return name.replace("_", ".")
