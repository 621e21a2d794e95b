"""DETR with its panoptic mask head, as a Detectron2 project beside Panoptic SegFormer.

Importing the package registers the meta-architecture PSFDetrPanoptic.
Paper: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 4.4.
"""

import panoptic_segformer.registration  # noqa: F401  mends Detectron2 and registers backbones, so it comes first

from .config import add_detr_panoptic_config
from .meta_arch import PSFDetrPanoptic

__all__ = ["PSFDetrPanoptic", "add_detr_panoptic_config"]
