"""A folder that looks like a user's checkout, in which commands of the documents are run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from documents import ROOT
from panoptic_segformer import load_config
from tiny import forget_scenes


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, scenes_root) -> Path:
    """Folder with the checkout's files, small scenes, a user's dataset and a picture."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "train_net.py"):
        (folder / name).symlink_to(ROOT / name)
    datasets = folder / "datasets"
    datasets.mkdir()
    (datasets / "synthetic_scenes").symlink_to(scenes_root / "synthetic_scenes")
    mine = datasets / "my_dataset"
    mine.mkdir()
    for split in ("train", "val"):
        scenes = scenes_root / "synthetic_scenes" / split
        (mine / split).symlink_to(scenes / "images")
        (mine / f"panoptic_{split}").symlink_to(scenes / "panoptic_png")
        (mine / f"panoptic_{split}.json").symlink_to(scenes / "panoptic.json")
    Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(folder / "street.jpg")
    return folder


@pytest.fixture(scope="module")
def demo_weights(checkout) -> None:
    """Fresh weights of the demo's model under the name that `make demo` gives the trained ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        patch.setenv("DETECTRON2_DATASETS", "datasets")
        lite = "configs/synthetic/panoptic_segformer_lite0.yaml"
        model = build_model(load_config(lite, ["MODEL.DEVICE", "cpu"]))
    forget_scenes()
    (checkout / "output/demo/training").mkdir(parents=True)
    torch.save({"model": model.state_dict()}, checkout / "output/demo/training/model_final.pth")
