"""A MaskFormer of seconds on the synthetic scenes."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from panoptic_segformer import load_config
from tiny import forget_scenes

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.WEIGHTS": "",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "64",  # a group of its norms needs two channels on maps of one cell
    "MODEL.SEM_SEG_HEAD.MASK_DIM": "32",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": "1",
    "MODEL.MASK_FORMER.HIDDEN_DIM": "32",
    "MODEL.MASK_FORMER.NHEADS": "4",
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": "32",
    "MODEL.MASK_FORMER.DEC_LAYERS": "2",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": "20",
    "INPUT.MIN_SIZE_TRAIN": "(96,)",
    "INPUT.MIN_SIZE_TEST": "96",
    "SOLVER.IMS_PER_BATCH": "2",
}


@pytest.fixture
def maskformer_config(scenes_root, config_dir, tmp_path, monkeypatch):
    """Function that gives the config of a tiny MaskFormer on the synthetic scenes, with overrides KEY VALUE."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))

    def load(*overrides: str):
        words = [word for pair in TINY.items() for word in pair]
        path = config_dir / "synthetic/maskformer_lite0.yaml"
        return load_config(path, [*words, "OUTPUT_DIR", str(tmp_path / "output"), *overrides])

    yield load
    forget_scenes()


@pytest.fixture
def tiny_model(maskformer_config):
    """Function that builds a tiny MaskFormer, always with the same weights, with overrides KEY VALUE."""

    def build(*overrides: str):
        torch.manual_seed(0)
        return build_model(maskformer_config(*overrides)).eval()

    return build
