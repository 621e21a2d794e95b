"""Sizes, names and recipe are those of Detectron2's project; what can't work is refused."""

from __future__ import annotations

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab import PanopticDeepLab
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config as add_original_config

from flat_config import flat_config
from panoptic_deeplab import PSFPanopticDeepLab, add_panoptic_deeplab_config
from panoptic_segformer import load_config

# Keys and values of the project's file for COCO, with those of the file that it starts from.
UPSTREAM_HEAD = {
    "IN_FEATURES": ["res2", "res3", "res5"],
    "PROJECT_FEATURES": ["res2", "res3"],
    "PROJECT_CHANNELS": [32, 64],
    "ASPP_CHANNELS": 256,
    "ASPP_DILATIONS": [6, 12, 18],
    "ASPP_DROPOUT": 0.1,
    "COMMON_STRIDE": 4,
    "NORM": "SyncBN",
}
UPSTREAM = {
    "MODEL": {
        "META_ARCHITECTURE": "PanopticDeepLab",
        "WEIGHTS": "detectron2://DeepLab/R-52.pkl",
        "PIXEL_MEAN": [123.675, 116.280, 103.530],
        "PIXEL_STD": [58.395, 57.120, 57.375],
        "BACKBONE": {"NAME": "build_resnet_deeplab_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 50,
            "NORM": "SyncBN",
            "OUT_FEATURES": ["res2", "res3", "res5"],
            "RES5_DILATION": 2,
            "RES5_MULTI_GRID": [1, 2, 4],
            "STEM_TYPE": "deeplab",
            "STEM_OUT_CHANNELS": 128,
            "STRIDE_IN_1X1": False,
        },
        "SEM_SEG_HEAD": {
            **UPSTREAM_HEAD,
            "NAME": "PanopticDeepLabSemSegHead",
            "HEAD_CHANNELS": 256,
            "CONVS_DIM": 256,
            "NUM_CLASSES": 133,
            "LOSS_TYPE": "hard_pixel_mining",
            "LOSS_TOP_K": 1.0,
            "USE_DEPTHWISE_SEPARABLE_CONV": True,
        },
        "INS_EMBED_HEAD": {
            **UPSTREAM_HEAD,
            "NAME": "PanopticDeepLabInsEmbedHead",
            "HEAD_CHANNELS": 32,
            "CONVS_DIM": 128,
            "CENTER_LOSS_WEIGHT": 200.0,
            "OFFSET_LOSS_WEIGHT": 0.01,
        },
        "PANOPTIC_DEEPLAB": {
            "STUFF_AREA": 4096,
            "CENTER_THRESHOLD": 0.1,
            "NMS_KERNEL": 41,
            "TOP_K_INSTANCE": 200,
            "SIZE_DIVISIBILITY": 640,
            "USE_DEPTHWISE_SEPARABLE_CONV": True,
        },
    },
    "DATASETS": {"TRAIN": ["coco_2017_train_panoptic"], "TEST": ["coco_2017_val_panoptic"]},
    "SOLVER": {
        "OPTIMIZER": "ADAM",
        "BASE_LR": 0.0005,
        "WEIGHT_DECAY": 0.0,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": 0.0,
        "MAX_ITER": 200000,
        "LR_SCHEDULER_NAME": "WarmupPolyLR",
        "IMS_PER_BATCH": 64,
    },
    "INPUT": {
        "FORMAT": "RGB",
        "GAUSSIAN_SIGMA": 8,
        "MIN_SIZE_TRAIN": [int(x * 0.1 * 640) for x in range(5, 16)],
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MIN_SIZE_TEST": 640,
        "MAX_SIZE_TRAIN": 640,
        "MAX_SIZE_TEST": 640,
        "CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [640, 640]},
    },
    "DATALOADER": {"NUM_WORKERS": 10},
    "VERSION": 2,
}


@pytest.fixture
def upstream_file(tmp_path):
    path = tmp_path / "panoptic_deeplab_R_52_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv.yaml"
    path.write_text(yaml.safe_dump(UPSTREAM))
    return path


@pytest.mark.parametrize("config", ["coco", "cityscapes"])
def test_names_and_shapes_are_detectron2s(config, config_dir):
    cfg = load_config(config_dir / config / "panoptic_deeplab_r52.yaml", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        ours = build_model(cfg)
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = {"coco": 133, "cityscapes": 19}[config]
        theirs = PanopticDeepLab(cfg)
    assert isinstance(ours, PSFPanopticDeepLab)
    expected = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == expected
    assert len(expected) > 300


def test_upstream_yaml_merges_and_says_what_ours_says(upstream_file, config_dir):
    theirs = flat_config(load_config(upstream_file, ["MODEL.META_ARCHITECTURE", "PSFPanopticDeepLab"]))
    ours = flat_config(load_config(config_dir / "coco/panoptic_deeplab_r52.yaml"))
    assert theirs.keys() == ours.keys()
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"OUTPUT_DIR", "SOLVER.REFERENCE_WORLD_SIZE", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"}


def test_recipe_is_the_projects():
    original, ours = get_cfg(), get_cfg()
    add_original_config(original)
    add_panoptic_deeplab_config(ours)
    expected, actual = flat_config(original), flat_config(ours)
    assert {key: actual[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19"], "NUM_CLASSES is 19, but dataset 'synthetic_train' needs 12"),
        (["MODEL.SEM_SEG_HEAD.LOSS_TYPE", "cross_entropy"], "LOSS_TYPE is 'cross_entropy'.* LOSS_TOP_K 1.0"),
        (["MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV", "False"], "set both to the same"),
        (["INPUT.CROP.ENABLED", "True"], "INPUT.CROP.TYPE is 'relative_range': set it to 'absolute'"),
        (
            ["MODEL.INS_EMBED_HEAD.IN_FEATURES", "['res1', 'res5']"],
            "INS_EMBED_HEAD.IN_FEATURES is .*'res1'.* gives .*res2",
        ),
        (["MODEL.BACKBONE.NAME", "build_nothing"], "MODEL.BACKBONE.NAME is 'build_nothing'"),
    ],
)
def test_what_can_not_work_is_refused(small_config, overrides, message):
    with pytest.raises(ValueError, match=message):
        build_model(small_config(*overrides))
