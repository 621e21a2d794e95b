"""Pictures of panoptic results, with stable colours."""

from .draw import draw_panoptic, side_by_side
from .palette import class_styles, segment_colors

__all__ = ["class_styles", "draw_panoptic", "segment_colors", "side_by_side"]
