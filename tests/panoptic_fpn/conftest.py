"""A Panoptic FPN of a second's building, on the classes of the synthetic scenes."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from panoptic_segformer import load_config
from tiny import forget_scenes

SMALL = {
    "MODEL.DEVICE": "cpu",
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
def small_config(scenes_root, config_dir):
    """Function that gives the config of a small model with overrides KEY VALUE."""

    def load(*overrides: str):
        words = [word for pair in SMALL.items() for word in pair]
        return load_config(config_dir / "synthetic/panoptic_fpn_lite0.yaml", [*words, *overrides])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(scenes_root))
        yield load
    forget_scenes()


@pytest.fixture(scope="module")
def small_model(small_config):
    torch.manual_seed(0)
    return build_model(small_config())
