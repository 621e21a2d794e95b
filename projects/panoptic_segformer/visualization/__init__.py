"""Pictures of panoptic results, with stable colours."""

from .draw import Style, draw_on_picture, draw_panoptic, side_by_side
from .examples import draw_example
from .files import write_picture
from .palette import class_key, class_styles, segment_colors
from .queries import QueryView, draw_queries

__all__ = [
    "QueryView",
    "Style",
    "class_key",
    "class_styles",
    "draw_example",
    "draw_on_picture",
    "draw_panoptic",
    "draw_queries",
    "segment_colors",
    "side_by_side",
    "write_picture",
]
