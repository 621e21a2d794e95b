"""A tiny model, pictures, and the command that predicts them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from panoptic_segformer import load_config
from panoptic_segformer.data.synthetic import write_scenes
from tiny import forget_scenes, tiny_overrides

LITE = "synthetic/panoptic_segformer_lite0.yaml"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Folder of ten pictures, one of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    write_scenes(folder / "scenes", 9, seed=5, size=(64, 96))
    for path in sorted((folder / "scenes/images").iterdir()):
        shutil.copy(path, folder / f"p{path.name}")
    (folder / "p000005b.jpg").write_bytes(b"no picture")
    shutil.rmtree(folder / "scenes")
    return folder


@pytest.fixture(scope="module")
def words(scenes_root, config_dir, tmp_path_factory, pictures) -> Callable[..., list[str]]:
    """Function that gives the command's words for an output folder."""
    folder = tmp_path_factory.mktemp("model")
    opts = [*tiny_overrides(folder), "MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD", "0.0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(scenes_root))
        torch.manual_seed(0)
        model = build_model(load_config(config_dir / LITE, opts))
        torch.save({"model": model.state_dict()}, folder / "tiny.pth")

        def make(output: Path, *more: str, shard_size: int = 3, inputs: Path = pictures) -> list[str]:
            model_words = ["--config-file", str(config_dir / LITE), "--weights", str(folder / "tiny.pth")]
            places = ["--input", str(inputs), "--output", str(output), "--shard-size", str(shard_size)]
            return ["predict-many", *model_words, *places, *more, "--opts", *opts]

        yield make
    forget_scenes()
