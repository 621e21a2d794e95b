"""Other layouts of panoptic truth, written in COCO-panoptic form: a module each, and what they share."""

from .ade20k import convert_ade20k
from .cityscapes import convert_cityscapes
from .instances import convert_instances
from .labelme import convert_labelme
from .output import Output

__all__ = ["Output", "convert_ade20k", "convert_cityscapes", "convert_instances", "convert_labelme"]
