"""Panoptic SegFormer for Detectron2.

Importing the package registers the meta-architecture `PanopticSegFormer`, the backbone builder
`build_timm_backbone` and the `psf://` form of MODEL.WEIGHTS.
"""

from . import compat

compat.apply()  # Must run before any import of Detectron2 below.

from .checkpoint import addresses as _  # noqa: E402  only registration
from .config import add_panoptic_segformer_config, load_config  # noqa: E402
from .meta_arch import PanopticSegFormer  # noqa: E402
from .modeling import backbone as _  # noqa: E402,F401  only registration

__all__ = ["PanopticSegFormer", "add_panoptic_segformer_config", "load_config"]
