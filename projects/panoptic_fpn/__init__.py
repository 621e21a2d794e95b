"""Panoptic FPN: Detectron2's own, with this project's data, results and training.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019. Importing the package registers the
meta-architecture `PSFPanopticFPN` with Detectron2.
"""

import panoptic_segformer.registration  # noqa: F401  mends and registers, before anything of Detectron2 is imported
from panoptic_segformer.modeling import fpn as _fpn  # noqa: F401  registers build_timm_fpn_backbone

from .config import add_panoptic_fpn_config
from .meta_arch import PSFPanopticFPN

__all__ = ["PSFPanopticFPN", "add_panoptic_fpn_config"]
