"""A Panoptic-DeepLab of seconds, on the classes of the synthetic scenes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.modeling import build_model

SMALL = {
    "MODEL.TIMM.WEIGHTS": "",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "64",
    "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS": "64",
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": "64",
    "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS": "64",
    "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA": "1",
}


@pytest.fixture(scope="module")
def small_config(scene_config):
    """Function that gives the config of a small model with overrides KEY VALUE."""
    return partial(scene_config, "panoptic_deeplab_lite0", SMALL)


@pytest.fixture(scope="module")
def small_model(small_config):
    """Random weights, large enough in the last layers that they find things and stuff."""
    torch.manual_seed(0)
    model = build_model(small_config())
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight, std=0.3)
    torch.nn.init.normal_(model.ins_embed_head.center_predictor.weight, std=0.3)
    torch.nn.init.normal_(model.ins_embed_head.offset_predictor.weight, std=0.3)
    return model
