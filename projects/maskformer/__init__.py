"""MaskFormer for Detectron2, as the meta-architecture `PSFMaskFormer`.

Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021. Written from the
paper and from facts of the released models, whose configs and checkpoints it takes; none of their code is here.
"""

import panoptic_segformer.registration  # noqa: F401  mends and registers what all models need

from .config import add_maskformer_config
from .meta_arch import PSFMaskFormer

__all__ = ["PSFMaskFormer", "add_maskformer_config"]
