"""Sizes, names and recipe are those of Detectron2; what can't work is refused."""

from __future__ import annotations

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from flat_config import flat_config
from panoptic_fpn import PSFPanopticFPN, add_panoptic_fpn_config
from panoptic_segformer import load_config
from panoptic_segformer.data.categories import Categories

# Our files, and those of Detectron2's model zoo.
ZOO = [("r50_1x", "R_50_1x"), ("r50_3x", "R_50_3x"), ("r101_3x", "R_101_3x")]
RENAMED = ["MODEL.META_ARCHITECTURE", "PSFPanopticFPN"]


def zoo_file(name: str) -> str:
    return model_zoo.get_config_file(f"COCO-PanopticSegmentation/panoptic_fpn_{name}.yaml")


def shapes(cfg: CfgNode) -> dict[str, torch.Size]:
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_model(cfg).state_dict().items()}


def test_parameters_are_those_of_detectron2(config_dir):
    cfg = load_config(config_dir / "coco/panoptic_fpn_r50_1x.yaml", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    assert isinstance(model, PSFPanopticFPN)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sum(sizes.values()) == 45_973_990
    assert [round(size / 1e6, 3) for size in sizes.values()] == [26.799, 0.594, 16.950, 1.631]


@pytest.mark.parametrize(("ours", "theirs"), ZOO)
def test_names_and_shapes_of_the_zoo_are_ours(ours, theirs, config_dir):
    zoo = get_cfg()
    zoo.merge_from_file(zoo_file(theirs))
    expected = shapes(zoo)
    assert shapes(load_config(config_dir / f"coco/panoptic_fpn_{ours}.yaml")) == expected
    assert len(expected) > 300


@pytest.mark.parametrize(("ours", "theirs"), ZOO)
def test_yaml_of_the_zoo_merges_and_says_what_ours_says(ours, theirs, config_dir):
    zoo = flat_config(load_config(zoo_file(theirs), RENAMED))
    own = flat_config(load_config(config_dir / f"coco/panoptic_fpn_{ours}.yaml"))
    assert zoo.keys() == own.keys()
    differing = {key for key in own if own[key] != zoo[key]}
    assert differing == {"OUTPUT_DIR", "SOLVER.REFERENCE_WORLD_SIZE"}


def test_recipe_is_detectron2s():
    cfg = get_cfg()
    plain = cfg.clone()
    add_panoptic_fpn_config(cfg)
    assert cfg.SOLVER.OPTIMIZER == "SGD"
    assert cfg.SOLVER.SLOW_PARAMETERS == []
    assert cfg.INPUT.CROP_RESIZE.PROB == 0
    own = flat_config(cfg)
    assert {key: own[key] for key in flat_config(plain)} == flat_config(plain)


def test_numbers_of_classes_come_from_the_dataset(small_model):
    assert small_model.sem_seg_head.predictor.out_channels == 1 + small_model.categories.num_stuff == 7
    assert small_model.roi_heads.num_classes == small_model.categories.num_things == 6


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", "5", "MODEL.ROI_HEADS.NUM_CLASSES is 5, .* 'synthetic_train' needs 6"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "54", "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 54, .* needs 7"),
        ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "254", "IGNORE_VALUE is 254, but pixels without truth are 255"),
        ("MODEL.MASK_ON", "False", "MODEL.MASK_ON is False"),
        ("MODEL.BACKBONE.NAME", "build_nothing", "MODEL.BACKBONE.NAME is 'build_nothing'"),
    ],
)
def test_what_can_not_work_is_refused(small_config, key, value, message):
    with pytest.raises(ValueError, match=message):
        build_model(small_config(key, value))


def test_dataset_without_thing_classes_is_refused(small_config, monkeypatch):
    sky = Categories((), (0,), (), ("sky",), (), ((0, 0, 0),))
    monkeypatch.setattr("panoptic_fpn.meta_arch.configured_categories", lambda cfg: sky)
    with pytest.raises(ValueError, match="needs a thing class, but the dataset has none: choose another model"):
        build_model(small_config())
