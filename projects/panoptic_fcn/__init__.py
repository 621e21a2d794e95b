"""Panoptic FCN for Detectron2, beside Panoptic SegFormer.

Li et al., "Fully Convolutional Networks for Panoptic Segmentation", CVPR 2021. Importing it registers the
meta-architecture `PSFPanopticFCN`.
"""

from panoptic_segformer import registration as _registration  # noqa: F401  mends Detectron2, registers backbones

from .config import add_panoptic_fcn_config
from .meta_arch import PSFPanopticFCN

__all__ = ["PSFPanopticFCN", "add_panoptic_fcn_config"]
