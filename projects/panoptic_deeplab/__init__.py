"""Panoptic-DeepLab: the parts of Detectron2's own, with this project's data, results and training.

Cheng et al., "Panoptic-DeepLab: A Simple, Strong, and Fast Baseline for Bottom-Up Panoptic Segmentation", CVPR 2020.
Importing the package registers the meta-architecture `PSFPanopticDeepLab` with Detectron2.
"""

import panoptic_segformer.registration  # noqa: F401  mends and registers, before anything of Detectron2 is imported

from .config import add_panoptic_deeplab_config
from .meta_arch import PSFPanopticDeepLab

__all__ = ["PSFPanopticDeepLab", "add_panoptic_deeplab_config"]
