"""Weights of bare backbones into timm models."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from .backbone_names import NO_WEIGHTS, author_rules, rename
from .download import local_copy
from .loading import read_copy

__all__ = ["convert_efficientnet_pytorch", "load_timm_weights"]


def load_timm_weights(model: nn.Module, address: str) -> None:
    """Load a classification checkpoint into a timm `features_only` model; layers after the features are left out.

    Args:
        model: the timm model.
        address: a file, or an address that Detectron2's PathManager knows, with timm's names, those of the authors
            of PVTv2 and Swin, or those of efficientnet-pytorch.
    Raises: ValueError: if the file lacks any tensor of the model, or has it in another shape. FileNotFoundError,
        ConnectionError: if it is not there.
    """
    state_dict = _bare_state_dict(read_copy(local_copy(address), address))
    if "_conv_stem.weight" in state_dict:
        state_dict = convert_efficientnet_pytorch(state_dict, list(model.state_dict()))
    rules = author_rules(state_dict)
    state_dict = {rename(name, rules): tensor for name, tensor in state_dict.items()}
    own = model.state_dict()
    # `features_only` models have the stages as direct children: stages_0.blocks.1 is stages.0.blocks.1 in files.
    names = {name: re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name) for name in own}
    found = {name: state_dict[names[name]] for name in own if names[name] in state_dict}
    lacking = [name for name in own if name not in found and not name.endswith(NO_WEIGHTS)]
    reshaped = [name for name in found if own[name].shape != found[name].shape]
    if lacking or reshaped:
        raise ValueError(
            f"{address} does not fit the backbone: {len(lacking)} of its {len(own)} tensors are missing "
            f"(first {lacking[:1]}), {len(reshaped)} have another shape (first {reshaped[:1]}); check MODEL.TIMM.NAME"
        )
    model.load_state_dict(found, strict=False)


def _bare_state_dict(content: Mapping[str, object]) -> Mapping[str, Tensor]:
    """Return a checkpoint's tensors, which training programs put beside their own state."""
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def convert_efficientnet_pytorch(state_dict: Mapping[str, Tensor], timm_names: list[str]) -> dict[str, Tensor]:
    """Return tensors of the package efficientnet-pytorch under timm's names.

    That package numbers all blocks through and calls the first of three batch norms 0; timm groups blocks into
    stages and counts norms from 1 (blocks without expansion have only two, from 1 in both).
    """
    stages = {
        tuple(map(int, re.findall(r"^blocks\.(\d+)\.(\d+)\.", name)[0])) for name in timm_names if "blocks." in name
    }
    places = dict(enumerate(sorted(stages)))
    converted = {}
    for name, tensor in state_dict.items():
        match = re.match(r"_blocks\.(\d+)\._(\w+)\.(.+)", name)
        if not match:
            converted[re.sub(r"^_conv_stem", "conv_stem", re.sub(r"^_bn0", "bn1", name))] = tensor
            continue
        block, layer, rest = int(match[1]), match[2], match[3]
        if block not in places:
            continue  # behind the last feature
        expands = f"_blocks.{block}._expand_conv.weight" in state_dict
        stage, position = places[block]
        converted[f"blocks.{stage}.{position}.{_timm_layer(layer, expands)}.{rest}"] = tensor
    return converted


def _timm_layer(layer: str, expands: bool) -> str:
    if layer.startswith("bn"):
        return f"bn{int(layer[2:]) + expands}"
    names = {
        "expand_conv": "conv_pw",
        "depthwise_conv": "conv_dw",
        "project_conv": "conv_pwl" if expands else "conv_pw",
    }
    return names[layer]
