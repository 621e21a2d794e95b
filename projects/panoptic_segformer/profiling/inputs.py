"""What models are profiled on."""

from __future__ import annotations

import numpy as np

from ..data.synthetic import Scene, compose_scene

__all__ = ["make_scene"]

# The usual size of COCO's pictures, (height, width); this seed gives about as many segments as they have.
SCENE_SIZE = (480, 640)
SCENE_SEED = 4


def make_scene() -> Scene:
    """Return the scene that stands for a picture: 8 things, 4 kinds of stuff."""
    return compose_scene(np.random.default_rng(SCENE_SEED), SCENE_SIZE)
