"""Synthetic panoptic scenes, the project's own data for demos and tests."""

from .writing import CATEGORIES, write_scenes

__all__ = ["CATEGORIES", "write_scenes"]
