"""Datasets in COCO-panoptic form: registration, classes, training examples, synthetic scenes."""

from .categories import Categories
from .datasets import register_datasets
from .mapper import PanopticDatasetMapper
from .synthetic import write_scenes

__all__ = ["Categories", "PanopticDatasetMapper", "register_datasets", "write_scenes"]
