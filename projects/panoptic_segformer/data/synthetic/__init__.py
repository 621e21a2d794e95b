"""Synthetic panoptic scenes, the project's own data for demos and tests."""

from .scene import Scene, compose_scene
from .writing import CATEGORIES, write_scenes

__all__ = ["CATEGORIES", "Scene", "compose_scene", "write_scenes"]
