"""Configs, parameter counts, upstream's yaml files and checkpoints, and values that are refused."""

from __future__ import annotations

from ast import literal_eval
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from panoptic_fcn import PSFPanopticFCN, add_panoptic_fcn_config
from panoptic_segformer import add_panoptic_segformer_config, load_config
from panoptic_segformer.data.categories import Categories

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
COCO = sorted((CONFIGS / "coco").glob("panoptic_fcn_*.yaml"))
# By the name of the config: all parameters, and those of each block.
BACKBONE = 27_979_456
BLOCKS = {"backbone": BACKBONE, "semantic_fpn": 4_132_352, "position_head": 2_266_583, "kernel_head": 2_365_696}
COUNTS = {
    "r50_3x": (
        36_999_511,
        {**BLOCKS, "feature_encoder": 222_528, "thing_generator": 16_448, "stuff_generator": 16_448},
    ),
    "star_r50_3x": (
        38_837_710,
        {**BLOCKS, "feature_encoder": 1_962_039, "thing_generator": 65_792, "stuff_generator": 65_792},
    ),
}
KEYS = {"r50_3x": "PanopticFCN-R50-3x", "star_r50_3x": "PanopticFCN-Star-R50-3x"}
# What the authors' yaml file of the fast 600 model says.
UPSTREAM = {
    "MODEL": {
        "META_ARCHITECTURE": "PanopticFCN",
        "WEIGHTS": "/data/detectron2_modelzoo/basemodel/R-50-MSRA.pkl",
        "MASK_ON": True,
        "PIXEL_MEAN": [123.675, 116.28, 103.53],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "RESNETS": {"DEPTH": 50, "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
        "POSITION_HEAD": {"THING": {"POS_NUM": 5, "THRES": 0.2}, "STUFF": {"THRES": 0.1}},
    },
    "DATASETS": {
        "TRAIN": ["coco_2017_train_panoptic_separated"],
        "TEST": ["coco_2017_val_panoptic_separated"],
    },
    "DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": True},
    "SOLVER": {
        "BASE_LR": 0.01,
        "WEIGHT_DECAY": 1.0e-4,
        "LR_SCHEDULER_NAME": "WarmupPolyLR",
        "POLY_LR_POWER": 0.9,
        "WARMUP_ITERS": 1000,
        "WARMUP_FACTOR": 0.001,
        "WARMUP_METHOD": "linear",
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_VALUE": 35.0},
        "IMS_PER_BATCH": 16,
        "MAX_ITER": 270000,
        "CHECKPOINT_PERIOD": 10000,
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": [440, 472, 504, 536, 568, 600],
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MIN_SIZE_TEST": 600,
        "MAX_SIZE_TRAIN": 1000,
        "MAX_SIZE_TEST": 1000,
        "MASK_FORMAT": "bitmask",
    },
    "VERSION": 2,
}


def build_empty(path: Path, *opts: object) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(load_config(path, ["MODEL.DEVICE", "meta", *opts]))


def coco_config(name: str) -> Path:
    return CONFIGS / f"coco/panoptic_fcn_{name}.yaml"


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_released_models(name):
    model = build_empty(coco_config(name))
    total, blocks = COUNTS[name]
    assert {key: sum(p.numel() for p in child.parameters()) for key, child in model.named_children()} == blocks
    assert sum(p.numel() for p in model.parameters()) == total


@pytest.mark.parametrize("name", KEYS)
def test_released_keys_are_the_models(name, shared_dir):
    lines = (shared_dir / f"keys/{KEYS[name]}.txt").read_text().splitlines()
    released = dict(line.split("\t") for line in lines if line.strip())
    own = {key: tuple(tensor.shape) for key, tensor in build_empty(coco_config(name)).state_dict().items()}
    assert {key: literal_eval(shape) for key, shape in released.items()} == own


@pytest.mark.parametrize("path", COCO, ids=lambda path: path.stem)
def test_coco_configs_build(path):
    cfg = load_config(path)
    model = build_empty(path)
    assert isinstance(model, PSFPanopticFCN)
    assert (model.categories.num_things, model.categories.num_stuff) == (80, 53)
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH) == ("SGD", 0.01, 16)
    assert cfg.INPUT.FORMAT == "BGR"
    assert cfg.MODEL.PIXEL_MEAN[0] == 123.675
    assert cfg.INPUT.CROP_RESIZE.PROB == 0
    is_fast = path.stem.endswith("_fast")
    assert model.kernel_options.thing_threshold == (0.2 if is_fast else 0.05)
    assert model.kernel_options.stuff_threshold == (0.1 if is_fast else 0.05)
    assert f"output/{path.stem}" == cfg.OUTPUT_DIR


def test_there_is_a_config_for_each_released_model():
    names = {path.stem.removeprefix("panoptic_fcn_") for path in COCO}
    models = {"r50_1x", "r50_3x", "r50_400_3x", "r50_512_3x", "r50_600_3x", "star_r50_3x"}
    assert names == models | {f"{model}_fast" for model in models}


def test_synthetic_config_builds_for_its_data(fcn_config):
    cfg = fcn_config()
    model = build_model(cfg)
    assert model.position_head.out_inst.out_channels == model.categories.num_things
    assert model.position_head.out_sem.out_channels == 1 + model.categories.num_stuff


def test_upstream_yaml_is_ours_but_for_the_name(tmp_path):
    (tmp_path / "upstream.yaml").write_text(yaml.safe_dump(UPSTREAM))
    theirs = load_config(tmp_path / "upstream.yaml", ["MODEL.META_ARCHITECTURE", "PSFPanopticFCN"])
    ours = load_config(coco_config("r50_600_3x_fast"))
    for cfg in (theirs, ours):  # Not of the model or its recipe.
        cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
        cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    assert theirs.dump() == ours.dump()


def test_upstream_name_is_refused_with_ours(tmp_path):
    (tmp_path / "upstream.yaml").write_text(yaml.safe_dump(UPSTREAM))
    with pytest.raises(ValueError, match="'PanopticFCN'.*'PSFPanopticFCN', which is ours"):
        load_config(tmp_path / "upstream.yaml")


def test_keys_join_those_of_another_model_in_any_order():
    dumps = []
    functions = [add_panoptic_fcn_config, add_panoptic_segformer_config]
    for order in (functions, functions[::-1]):
        cfg = get_cfg()
        default_head = cfg.MODEL.SEM_SEG_HEAD.dump()
        for add in order:
            add(cfg)
        assert cfg.MODEL.SEM_SEG_HEAD.dump() == default_head
        dumps.append(cfg.dump())
    assert dumps[0] == dumps[1]


def test_checkpoint_loads_by_model_weights(fcn, tmp_path):
    trained, fresh = fcn(), fcn()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)
    torch.save({"model": trained.state_dict()}, tmp_path / "model.pth")
    incompatible = DetectionCheckpointer(fresh).load(str(tmp_path / "model.pth"))
    assert incompatible == {}
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("POSITION_HEAD.THING.NUM_CLASSES", 7, "THING.NUM_CLASSES is 7, .* needs 6: set the key to 6"),
        ("POSITION_HEAD.STUFF.NUM_CLASSES", 54, "STUFF.NUM_CLASSES is 54, .* needs 7: set the key to 7"),
        ("POSITION_HEAD.THING.CENTER_TYPE", "middle", "CENTER_TYPE is 'middle': set it to 'mass' or 'box'"),
        ("INFERENCE.SIMILAR_TYPE", "L1", "SIMILAR_TYPE is 'L1': set it to 'cosine'"),
        ("SEMANTIC_FPN.COMMON_STRIDE", 8, "COMMON_STRIDE is 8: set it to 4"),
        ("SEMANTIC_FPN.IN_FEATURES", "('p2', 'p9')", "SEMANTIC_FPN.IN_FEATURES is .*p9.*choose from.*p5"),
        ("SEMANTIC_FPN.IN_FEATURES", "('p2', 'p6')", r"SEMANTIC_FPN.IN_FEATURES is .*: choose from .*'p5'\]"),
        ("FEATURE_ENCODER.IN_FEATURES", "('p3', 'p9')", "FEATURE_ENCODER.IN_FEATURES is .*p9.*choose from.*p7"),
        ("FEATURE_ENCODER.IN_FEATURES", "('p3', 'p4')", "INSTANCE_SCALES has 5 ranges for the 2 levels"),
        ("FPN.IN_FEATURES", "('res2', 'res6')", "FPN.IN_FEATURES is .*res6.*the backbone gives.*res5"),
        ("FPN.IN_FEATURES", "('res2', 'res3', 'res4')", "FPN.IN_FEATURES is .*strides double up to 32"),
        ("BACKBONE.NAME", "build_none", "BACKBONE.NAME is 'build_none'"),
    ],
)
def test_value_that_does_not_fit_raises(fcn_config, key, value, message):
    with pytest.raises(ValueError, match=message):
        build_model(fcn_config(f"MODEL.{key}", value))


def test_dataset_without_thing_classes_is_refused(fcn_config, monkeypatch):
    sky = Categories((), (0,), (), ("sky",), (), ((0, 0, 0),))
    monkeypatch.setattr("panoptic_fcn.building.configured_categories", lambda cfg: sky)
    with pytest.raises(ValueError, match="needs a thing class, but the dataset has none: choose another model"):
        build_model(fcn_config())
