"""Configs: all of ours build, the authors' merge, and bad values are refused in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from maskformer import PSFMaskFormer, add_maskformer_config
from maskformer.classes import JointClasses
from panoptic_segformer import add_panoptic_segformer_config, load_config
from panoptic_segformer.training.optimizer import build_optimizer

UPSTREAM = Path(__file__).parent
ON_META = ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", "none"]
CONFIGS = [
    *(f"coco/maskformer_{name}" for name in ("r50", "r101", "swin_t", "swin_s", "swin_b", "swin_l")),
    "synthetic/maskformer_lite0",
    "ade20k/maskformer_r50",
    "ade20k/maskformer_r101",
]


def build_on_meta(cfg) -> PSFMaskFormer:
    with torch.device("meta"):
        return build_model(cfg)


@pytest.fixture
def ade20k_metadata():
    """Detectron2 has no panoptic ADE20K: 100 things among 50 kinds of stuff under the names of the config."""
    names, ids = [f"class {i}" for i in range(150)], range(150)
    things = [i for i in ids if i % 3]
    for name in ("ade20k_panoptic_train", "ade20k_panoptic_val"):
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(
            thing_classes=names,
            stuff_classes=names,
            thing_colors=[(0, 0, 0)] * 150,
            stuff_colors=[(0, 0, 0)] * 150,
            thing_dataset_id_to_contiguous_id={i: i for i in things},
            stuff_dataset_id_to_contiguous_id={i: i for i in ids if i not in things},
        )
    yield
    for name in ("ade20k_panoptic_train", "ade20k_panoptic_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_every_config_is_tested(config_dir):
    found = {str(path.relative_to(config_dir).with_suffix("")) for path in config_dir.glob("*/maskformer_*.yaml")}
    assert found == set(CONFIGS)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("coco")])
def test_coco_configs_build(config_dir, name):
    model = build_on_meta(load_config(config_dir / f"{name}.yaml", ON_META))
    assert model.size_divisibility == 0
    assert model.sem_seg_head.predictor.class_embed.weight.shape == (134, 256)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("ade20k")])
def test_ade20k_configs_build(config_dir, ade20k_metadata, name):
    cfg = load_config(config_dir / f"{name}.yaml", ON_META)
    cfg.DATASETS.REGISTER.clear()
    model = build_on_meta(cfg)
    assert model.size_divisibility == 32
    assert model.inference_options.object_mask_threshold == 0.7
    assert model.categories.num_things == 100
    assert JointClasses(model.categories).category_ids.tolist() == list(range(150))


def test_synthetic_config_builds(maskformer_config, config_dir):
    own = load_config(config_dir / "synthetic/maskformer_lite0.yaml", ON_META)
    other = load_config(config_dir / "synthetic/panoptic_segformer_lite0.yaml")
    for key in ("IMS_PER_BATCH", "MAX_ITER", "STEPS", "BASE_LR", "WARMUP_ITERS"):
        assert own.SOLVER[key] == other.SOLVER[key]
    assert own.INPUT.MIN_SIZE_TRAIN == other.INPUT.MIN_SIZE_TRAIN
    assert own.MODEL.TIMM.NAME == other.MODEL.TIMM.NAME
    maskformer_config()  # where the scenes are
    assert 4e6 < sum(parameter.numel() for parameter in build_on_meta(own).parameters()) < 7e6


@pytest.mark.parametrize("name", ["r50", "swin_l"])
def test_upstream_config_means_ours(config_dir, name):
    upstream = load_config(UPSTREAM / f"upstream_{name}.yaml", ["MODEL.META_ARCHITECTURE", "PSFMaskFormer"])
    own = load_config(config_dir / f"coco/maskformer_{name}.yaml")
    for cfg in (upstream, own):
        cfg.OUTPUT_DIR = ""
        cfg.MODEL.WEIGHTS = cfg.MODEL.TIMM.WEIGHTS = ""
        # Keys that nothing reads.
        cfg.MODEL.RESNETS.STEM_TYPE = "basic"
        cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 1, 1]
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 133
    assert flat(upstream) == flat(own)


def flat(node, prefix="") -> dict[str, object]:
    """All keys of a config; tuples and lists mean the same."""
    values = {}
    for key, value in node.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = list(value) if isinstance(value, tuple | list) else value
    return values


def test_upstream_name_of_the_architecture_is_explained():
    with pytest.raises(ValueError, match="MODEL.META_ARCHITECTURE is 'MaskFormer'.*set it to 'PSFMaskFormer'"):
        load_config(UPSTREAM / "upstream_r50.yaml")


def test_all_keys_of_deeplab_are_there():
    from detectron2.projects.deeplab.config import add_deeplab_config

    own, deeplab = get_cfg(), get_cfg()
    add_maskformer_config(own)
    add_deeplab_config(deeplab)
    assert set(flat(deeplab)) <= set(flat(own))


def test_keys_stand_alone_and_beside_those_of_other_models():
    alone, beside = get_cfg(), get_cfg()
    add_maskformer_config(alone)
    add_panoptic_segformer_config(beside)
    before = set(flat(beside))
    add_maskformer_config(beside)
    assert before | set(flat(alone)) == set(flat(beside))


def test_learning_rates_and_decay_of_the_recipe(config_dir):
    cfg = load_config(config_dir / "coco/maskformer_swin_t.yaml", [*ON_META, "SOLVER.BACKBONE_MULTIPLIER", "0.1"])
    model = build_on_meta(cfg)
    groups = {}
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        groups |= {id(parameter): (group["lr"], group["weight_decay"]) for parameter in group["params"]}
    found = {name: groups[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["sem_seg_head.predictor.class_embed.weight"] == pytest.approx((6e-5, 0.01))
    assert found["sem_seg_head.predictor.query_embed.weight"] == pytest.approx((6e-5, 0))
    assert found["sem_seg_head.pixel_decoder.layer_1.norm.bias"] == pytest.approx((6e-5, 0))
    assert found["backbone.model.layers_0.blocks.0.mlp.fc1.weight"] == pytest.approx((6e-6, 0.01))
    assert found["backbone.model.layers_0.blocks.0.attn.relative_position_bias_table"] == pytest.approx((6e-6, 0))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SEM_SEG_HEAD.NAME", "PerPixelBaselineHead", "'PerPixelBaselineHead': set it to 'MaskFormerHead'"),
        ("SEM_SEG_HEAD.PIXEL_DECODER_NAME", "FPN", "'FPN': set it to 'TransformerEncoderPixelDecoder' or 'Base"),
        ("SEM_SEG_HEAD.IN_FEATURES", "['res2', 'p5']", "'p5'.*the backbone gives .*res2.*choose from these"),
        ("SEM_SEG_HEAD.NUM_CLASSES", "7", "NUM_CLASSES is 7, but dataset 'synthetic_train' has 12.*set it to 12"),
        ("SEM_SEG_HEAD.CONVS_DIM", "30", "CONVS_DIM is 30: set it to a multiple of 4"),
        ("MASK_FORMER.HIDDEN_DIM", "20", "HIDDEN_DIM is 20: .*and of MODEL.MASK_FORMER.NHEADS, 8"),
        (
            "MASK_FORMER.TRANSFORMER_IN_FEATURE",
            "res6",
            "IN_FEATURE is 'res6': set it to 'res2' or .*'transformer_encoder'",
        ),
        ("MASK_FORMER.PRE_NORM", "True", "PRE_NORM is True: set it to False"),
        ("MASK_FORMER.DEC_LAYERS", "0", "DEC_LAYERS is 0: set it to 1 or more"),
    ],
)
def test_bad_values_are_refused(maskformer_config, key, value, message):
    nheads = ("MODEL.MASK_FORMER.NHEADS", "8")
    with pytest.raises(ValueError, match=message):
        build_model(maskformer_config(*nheads, f"MODEL.{key}", value))


def test_encoder_that_the_pixel_decoder_lacks_is_no_source(maskformer_config):
    with pytest.raises(ValueError, match="TRANSFORMER_IN_FEATURE is 'transformer_encoder': set it to 'res2' or"):
        build_model(maskformer_config("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("APE", "True", "MODEL.SWIN.APE is True, but timm's Swin has False alone"),
        ("OUT_FEATURES", "['res1']", r"MODEL.SWIN.OUT_FEATURES names \['res1'\]: choose from res2, res3, res4, res5"),
    ],
)
def test_bad_values_of_swin_are_refused(config_dir, key, value, message):
    cfg = load_config(config_dir / "coco/maskformer_swin_t.yaml", [*ON_META, f"MODEL.SWIN.{key}", value])
    with pytest.raises(ValueError, match=message):
        build_model(cfg)
