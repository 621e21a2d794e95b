"""A DETR of seconds on the small synthetic scenes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.data import get_detection_dataset_dicts
from detectron2.modeling import build_model

from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.data.mapper import PanopticDatasetMapper

TINY = {
    "MODEL.DETR.DIM_FEEDFORWARD": "64",
    "MODEL.DETR.ENC_LAYERS": "1",
    "MODEL.DETR.DEC_LAYERS": "2",
    "MODEL.DETR.NUM_OBJECT_QUERIES": "20",
    "INPUT.MIN_SIZE_TRAIN": "(96,)",
    "INPUT.MIN_SIZE_TEST": "96",
    "INPUT.RANDOM_FLIP": "none",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "3",
    "SOLVER.STEPS": "()",
}


@pytest.fixture
def detr_config(scene_config):
    """Function that gives the config of a tiny DETR, with overrides KEY VALUE."""
    return partial(scene_config, "detr_panoptic_lite0", TINY)


@pytest.fixture
def build_detr(detr_config):
    """Function that builds a tiny DETR of random weights in inference mode, with overrides KEY VALUE."""

    def build(*overrides: str):
        torch.manual_seed(0)
        return build_model(detr_config(*overrides)).eval()

    return build


@pytest.fixture
def scene_examples(detr_config):
    """The training examples of the scenes, not augmented."""
    cfg = detr_config()
    register_datasets(cfg)
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    return [mapper(dataset_dict) for dataset_dict in get_detection_dataset_dicts(list(cfg.DATASETS.TRAIN))]
