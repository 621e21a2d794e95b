"""How deep below its top every layer of a backbone lies: learning rates may fall with it.

Layers are timm's own of each of its models (`group_matcher`), and stem and blocks of Detectron2's residual networks.
"""

from __future__ import annotations

from detectron2.modeling.backbone import ResNet
from torch import nn

from .backbone import TimmBackbone

__all__ = ["backbone_depths"]


def backbone_depths(model: nn.Module) -> dict[str, int]:
    """Return the depths of a backbone's parameters by their names in the model: 1 in its topmost layer.

    What stands on a backbone is not among them, nor are norms of its features.

    Raises: ValueError: if the model has no backbone whose layers are known.
    """
    depths: dict[str, int] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, TimmBackbone):
            layers = module.layer_numbers()
        elif isinstance(module, ResNet):
            layers = _resnet_layers(module)
        else:
            continue
        top = max(layers.values())
        depths |= {f"{prefix}.{name}": 1 + top - layer for name, layer in layers.items()}
    if not depths:
        raise ValueError(
            "SOLVER.LAYER_DECAY needs a backbone whose layers are known, a model of timm or Detectron2's ResNet: set "
            "MODEL.BACKBONE.NAME to one of these, or SOLVER.LAYER_DECAY to 1.0"
        )
    return depths


def _resnet_layers(network: ResNet) -> dict[str, int]:
    """Return the number of each parameter's layer, 0 at the stem."""
    layers = [network.stem, *(block for stage in network.stages for block in stage)]
    numbers = {id(parameter): number for number, layer in enumerate(layers) for parameter in layer.parameters()}
    return {name: numbers[id(parameter)] for name, parameter in network.named_parameters()}
