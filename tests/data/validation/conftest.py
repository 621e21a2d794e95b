"""Scenes to damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from injected_scenes import Scenes

from panoptic_segformer.data.synthetic import write_scenes


@pytest.fixture(scope="session")
def sound_scenes(tmp_path_factory) -> Path:
    """Scenes in which every category occurs in more than one picture, so that one may be damaged."""
    return write_scenes(tmp_path_factory.mktemp("sound") / "scenes", 6, seed=7, size=(64, 96))


@pytest.fixture
def scenes(sound_scenes, tmp_path) -> Scenes:
    return Scenes(sound_scenes, tmp_path / "scenes")
