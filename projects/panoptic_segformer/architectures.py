"""The meta-architectures of this distribution: Panoptic SegFormer and the models that it is compared with.

Each has a package of its own; importing it registers the meta-architecture with Detectron2. The names differ from
those of the upstream projects, so that these can be imported beside ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from detectron2.config import CfgNode

__all__ = ["ARCHITECTURES", "Architecture", "find_architecture"]


@dataclass(frozen=True)
class Architecture:
    """One meta-architecture.

    Attributes:
        package: what registers it.
        config_function: name of the function of the package that adds its keys to a config.
        upstream: the name that the original project has for it; "" where that is ours.
        has_views: whether it can see a picture in several views, see inference/augmentation.py.
    """

    package: str
    config_function: str
    upstream: str = ""
    has_views: bool = False

    def add_config(self, cfg: CfgNode) -> None:
        """Register the meta-architecture and add its keys to a config, in place."""
        add: Callable[[CfgNode], None] = getattr(import_module(self.package), self.config_function)
        add(cfg)


# By the value of MODEL.META_ARCHITECTURE.
ARCHITECTURES = {
    "PanopticSegFormer": Architecture(
        "panoptic_segformer.registration", "add_panoptic_segformer_config", has_views=True
    ),
    "PSFPanopticFCN": Architecture("panoptic_fcn", "add_panoptic_fcn_config", "PanopticFCN"),
    "PSFMaskFormer": Architecture("maskformer", "add_maskformer_config", "MaskFormer"),
    "PSFDetrPanoptic": Architecture("detr_panoptic", "add_detr_panoptic_config", "Detr"),
    "PSFPanopticFPN": Architecture("panoptic_fpn", "add_panoptic_fpn_config", "PanopticFPN"),
    "PSFPanopticDeepLab": Architecture("panoptic_deeplab", "add_panoptic_deeplab_config", "PanopticDeepLab"),
}


def find_architecture(name: str) -> Architecture:
    """Return the architecture of a name.

    Raises: ValueError: if this distribution has none of that name (says what an upstream name is called here).
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    ours = [own for own, architecture in ARCHITECTURES.items() if name and architecture.upstream == name]
    remedy = f"set it to {ours[0]!r}, which is ours" if ours else f"set it to one of {', '.join(ARCHITECTURES)}"
    raise ValueError(f"MODEL.META_ARCHITECTURE is {name!r}, which this project does not have: {remedy}")
