"""Pictures of panoptic results, with stable colours."""

from .draw import draw_panoptic, side_by_side
from .files import write_picture
from .palette import class_key, class_styles, segment_colors

__all__ = ["class_key", "class_styles", "draw_panoptic", "segment_colors", "side_by_side", "write_picture"]
