"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from panoptic_segformer import compat
from tiny import forget_scenes, tiny_overrides, words

compat.apply()  # before a test imports what it mends

ROOT = Path(__file__).resolve().parent.parent

# The same examples in every run, however slow the machine.
settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")
# Small tensors gain nothing from threads, and pytest-xdist runs one process per core.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with the golden numbers and real pictures, which are not part of the project."""
    folder = Path(os.environ.get("PANSEG_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden numbers and pictures at {folder}: set PANSEG_SHARED to the folder that has them")
    return folder


@pytest.fixture(scope="session")
def config_dir() -> Path:
    return ROOT / "configs"


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory) -> Path:
    """Folder in the place of $DETECTRON2_DATASETS with a few small synthetic scenes."""
    from panoptic_segformer.data.synthetic import write_scenes

    root = tmp_path_factory.mktemp("datasets")
    write_scenes(root / "synthetic_scenes/train", 4, seed=1, size=(96, 128))
    write_scenes(root / "synthetic_scenes/val", 2, seed=2, size=(96, 128))
    return root


@pytest.fixture(scope="module")
def scene_config(scenes_root, config_dir, tmp_path_factory):
    """Function that gives a config of configs/synthetic by its stem, on the scenes, with overrides KEY VALUE."""
    from panoptic_segformer import load_config

    def load(stem: str, overrides: Mapping[str, str], *more: str):
        output_dir = str(tmp_path_factory.mktemp("output"))
        opts = [*words({"MODEL.DEVICE": "cpu", "OUTPUT_DIR": output_dir, **overrides}), *more]
        return load_config(config_dir / f"synthetic/{stem}.yaml", opts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(scenes_root))
        yield load
    forget_scenes()


@pytest.fixture
def tiny_config(scenes_root, config_dir, tmp_path, monkeypatch):
    """Function that gives the config of a model of seconds, on the synthetic scenes, with overrides KEY VALUE."""
    from panoptic_segformer import load_config

    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))

    def load(*overrides: str):
        return load_config(
            config_dir / "synthetic/panoptic_segformer_lite0.yaml", [*tiny_overrides(tmp_path), *overrides]
        )

    yield load
    forget_scenes()
