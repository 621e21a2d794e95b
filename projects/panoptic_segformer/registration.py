"""What needs Detectron2: imported when the first public name of the package is asked for.

Order matters: Detectron2's own breakages are mended before it is imported.
"""

from . import compat

compat.apply()

from .checkpoint import addresses as _addresses  # noqa: E402,F401  registers psf:// and package://
from .config import add_panoptic_segformer_config, load_config  # noqa: E402
from .inference.predictor import PanopticPredictor  # noqa: E402
from .inference.result import PanopticResult  # noqa: E402
from .meta_arch import PanopticSegFormer  # noqa: E402
from .modeling import backbone as _backbone  # noqa: E402,F401  registers build_timm_backbone

__all__ = [
    "PanopticPredictor",
    "PanopticResult",
    "PanopticSegFormer",
    "add_panoptic_segformer_config",
    "load_config",
]
