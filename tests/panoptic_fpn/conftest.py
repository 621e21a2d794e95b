"""A Panoptic FPN of a second's building, on the classes of the synthetic scenes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.modeling import build_model

SMALL = {
    "MODEL.TIMM.WEIGHTS": "",
    "MODEL.FPN.OUT_CHANNELS": "32",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "64",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM": "16",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": "1",
    # So that random weights find something.
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": "0.1",
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": "1",
}


@pytest.fixture(scope="module")
def small_config(scene_config):
    """Function that gives the config of a small model with overrides KEY VALUE."""
    return partial(scene_config, "panoptic_fpn_lite0", SMALL)


@pytest.fixture(scope="module")
def small_model(small_config):
    torch.manual_seed(0)
    return build_model(small_config())
