"""The smallest Panoptic FCN that is still complete, on the synthetic scenes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

NARROW = {
    "MODEL.TIMM.WEIGHTS": "",
    "MODEL.FPN.OUT_CHANNELS": "64",
    "MODEL.SEMANTIC_FPN.CONVS_DIM": "64",
    "MODEL.POSITION_HEAD.CONVS_DIM": "64",
    "MODEL.POSITION_HEAD.NUM_CONVS": "1",
    "MODEL.KERNEL_HEAD.CONVS_DIM": "64",
    "MODEL.KERNEL_HEAD.NUM_CONVS": "1",
    "MODEL.FEATURE_ENCODER.CONVS_DIM": "16",
    "MODEL.INFERENCE.COMBINE.INST_THRESH": "0.3",
    "MODEL.INFERENCE.COMBINE.STUFF_AREA_LIMIT": "16",
    "INPUT.MIN_SIZE_TRAIN": "(96,)",
    "INPUT.MIN_SIZE_TEST": "96",
}


@pytest.fixture
def fcn_config(scene_config):
    """Function that gives the config of a model of seconds, with overrides KEY VALUE."""
    return partial(scene_config, "panoptic_fcn_lite0", NARROW)


@pytest.fixture
def fcn(fcn_config):
    """Function that builds such a model with random weights that see many different things and regions."""

    def build(*overrides: str):
        torch.manual_seed(0)
        model = build_model(fcn_config(*overrides))
        for predictor in (model.position_head.out_inst, model.position_head.out_sem, model.kernel_head.out_conv):
            nn.init.normal_(predictor.weight, std=0.1)
        # Features are not negative: kernels whose numbers sum to 0 give masks that cover some places and others not.
        for generator, std in ((model.thing_generator, 0.5), (model.stuff_generator, 5.0)):
            weight = nn.init.normal_(generator.embed_extractor.weight, std=std)
            with torch.no_grad():
                weight -= weight.mean(0)
        return model.eval()

    return build
