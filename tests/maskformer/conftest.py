"""A MaskFormer of seconds on the synthetic scenes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.modeling import build_model

TINY = {
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
def maskformer_config(scene_config):
    """Function that gives the config of a tiny MaskFormer, with overrides KEY VALUE."""
    return partial(scene_config, "maskformer_lite0", TINY)


@pytest.fixture
def tiny_model(maskformer_config):
    """Function that builds a tiny MaskFormer, always with the same weights, with overrides KEY VALUE."""

    def build(*overrides: str):
        torch.manual_seed(0)
        return build_model(maskformer_config(*overrides)).eval()

    return build
