"""Sizes of the released models, their checkpoints and configs, and configs that can't be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from detr_panoptic import PSFDetrPanoptic, add_detr_panoptic_config
from panoptic_segformer import add_panoptic_segformer_config, load_config
from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_segformer.data.augmentations import build_augmentations
from panoptic_segformer.training.optimizer import build_optimizer

# The keys and values of the authors' detr_segm_256_6_6_torchvision.yaml.
UPSTREAM_CONFIG = {
    "MODEL": {
        "META_ARCHITECTURE": "Detr",
        "PIXEL_MEAN": [123.675, 116.280, 103.530],
        "PIXEL_STD": [58.395, 57.120, 57.375],
        "MASK_ON": True,
        "MASK_THRESHOLD": 0.5,
        "RESNETS": {"DEPTH": 50, "STRIDE_IN_1X1": False, "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "DETR": {"GIOU_WEIGHT": 2.0, "L1_WEIGHT": 5.0, "NUM_OBJECT_QUERIES": 100, "FROZEN_WEIGHTS": ""},
    },
    "DATASETS": {"TRAIN": ["coco_2017_train_panoptic"], "TEST": ["coco_2017_val_panoptic"]},
    "SOLVER": {
        "IMS_PER_BATCH": 64,
        "BASE_LR": 0.0001,
        "STEPS": [55440],
        "MAX_ITER": 92400,
        "WARMUP_FACTOR": 1.0,
        "WARMUP_ITERS": 10,
        "WEIGHT_DECAY": 0.0001,
        "OPTIMIZER": "ADAMW",
        "BACKBONE_MULTIPLIER": 0.1,
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": 0.01, "NORM_TYPE": 2.0},
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
        "CROP": {"ENABLED": True, "TYPE": "absolute_range", "SIZE": [384, 600]},
        "FORMAT": "RGB",
    },
    "TEST": {"EVAL_PERIOD": 4000},
    "DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": False, "NUM_WORKERS": 4},
    "VERSION": 2,
}
# Keys that the authors' `add_detr_config` adds, with its values.
UPSTREAM_KEYS = {
    "GIOU_WEIGHT": 2.0,
    "L1_WEIGHT": 5.0,
    "DEEP_SUPERVISION": True,
    "NO_OBJECT_WEIGHT": 0.1,
    "NHEADS": 8,
    "DROPOUT": 0.1,
    "DIM_FEEDFORWARD": 2048,
    "ENC_LAYERS": 6,
    "DEC_LAYERS": 6,
    "PRE_NORM": False,
    "HIDDEN_DIM": 256,
    "NUM_OBJECT_QUERIES": 100,
}
COCO_CONFIGS = ["detr_panoptic_r50", "detr_panoptic_r101", "detr_panoptic_dc5_r50", "detr_boxes_r50"]
OWN_ROWS = ("MODEL.DETR.RAW_CATEGORY_IDS", "False")


@pytest.fixture
def build_coco(config_dir):
    """Function that builds the model of a config on COCO, without memory for its weights."""

    def build(name: str = "detr_panoptic_r50", *overrides: str) -> PSFDetrPanoptic:
        cfg = load_config(config_dir / f"coco/{name}.yaml", ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", "", *overrides])
        with torch.device("meta"):
            return build_model(cfg)

    return build


@pytest.fixture
def native_tensors(shared_dir) -> dict[str, torch.Tensor]:
    """Tensors of the names and shapes of the authors' panoptic R50, of increasing numbers."""
    tensors = {}
    for line in (shared_dir / "keys/detr_r50_panoptic_native.txt").read_text().splitlines():
        name, shape = line.split("\t")
        sizes = [int(size) for size in re.findall(r"\d+", shape)]
        tensors[name] = torch.arange(float(torch.Size(sizes).numel())).view(sizes)
    return tensors


def shapes_of(state_dict) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state_dict.items()}


@pytest.mark.parametrize(
    ("name", "overrides", "total", "learning"),
    [
        ("detr_panoptic_r50", (), 42_899_288, 42_676_888),
        ("detr_panoptic_dc5_r50", (), 42_899_288, 42_676_888),
        ("detr_panoptic_r101", (), 61_839_192, 61_616_792),
        ("detr_boxes_r50", (), 41_565_631, 41_343_231),
        ("detr_panoptic_r50", OWN_ROWS, 42_899_288 - (251 - 134) * 257, 42_646_819),
    ],
)
def test_parameter_counts_are_the_authors(build_coco, name, overrides, total, learning):
    parameters = list(build_coco(name, *overrides).parameters())
    assert sum(p.numel() for p in parameters) == total
    assert sum(p.numel() for p in parameters if p.requires_grad) == learning


def test_all_names_of_the_authors_checkpoint_are_ours(build_coco, native_tensors):
    model = build_coco()
    assert len(native_tensors) == 490
    assert shapes_of(model.convert_state_dict(native_tensors)) == shapes_of(model.state_dict())


def test_names_of_the_detectron2_wrapper_are_recognised(build_coco):
    model = build_coco()
    prefixes = {"backbone": "detr.detr.backbone.0.backbone", "bbox_attention": "detr.bbox_attention"}
    prefixes["mask_head"] = "detr.mask_head"
    wrapper = {"criterion.empty_weight": torch.ones(251)}
    for name, tensor in model.state_dict().items():
        first, _, rest = name.partition(".")
        wrapper[f"{prefixes.get(first, f'detr.detr.{first}')}.{rest}"] = tensor
    assert shapes_of(model.convert_state_dict(wrapper)) == shapes_of(model.state_dict())


def test_own_names_stay(build_coco):
    model = build_coco()
    own = model.state_dict()
    assert model.convert_state_dict(own) is own


@pytest.mark.parametrize("dataset", ["coco_2017_val_panoptic", "coco_2017_val_panoptic_separated"])
def test_rows_of_the_datasets_categories_are_gathered(build_coco, native_tensors, dataset):
    model = build_coco("detr_panoptic_r50", *OWN_ROWS, "DATASETS.TRAIN", "()", "DATASETS.TEST", f"('{dataset}',)")
    converted = model.convert_state_dict(native_tensors)
    assert shapes_of(converted) == shapes_of(model.state_dict())
    rows = converted["class_embed.bias"].long().tolist()
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    things = sorted(metadata.thing_dataset_id_to_contiguous_id)
    stuff = sorted(metadata.stuff_dataset_id_to_contiguous_id)
    assert rows == [*things, *stuff, 250]
    assert (rows[0], rows[79], rows[80], rows[132]) == (1, 90, 92, 200)  # person, toothbrush, banner, rug
    assert torch.equal(converted["class_embed.weight"], native_tensors["detr.class_embed.weight"][rows])


def test_released_file_loads_through_detectron2s_checkpointer(build_detr, tmp_path):
    """In the authors' form, with 251 rows: a tiny model stands for theirs."""
    model = build_detr()
    native = {}
    for name, tensor in model.state_dict().items():
        first = name.split(".")[0]
        prefix = "" if first in ("bbox_attention", "mask_head") else "detr."
        native[prefix + re.sub(r"^backbone\.", "backbone.0.backbone.", name)] = tensor.clone()
    for part in ("weight", "bias"):
        native[f"detr.class_embed.{part}"] = torch.randn(251, *native[f"detr.class_embed.{part}"].shape[1:])
    torch.save({"model": native}, tmp_path / "detr.pth")
    other = build_detr()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7)
    PanopticCheckpointer(other).load(str(tmp_path / "detr.pth"))
    loaded = other.state_dict()
    expected = native["detr.class_embed.bias"][[*model.classes.dataset_ids, 250]]
    assert torch.equal(loaded["class_embed.bias"], expected)
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items() if not k.startswith("class_embed"))


def test_classes_stand_at_their_category_ids(build_coco):
    classes = build_coco().classes
    assert classes.num_rows == 251
    assert (classes.rows[0], classes.rows[79], classes.rows[80], classes.rows[132]) == (1, 90, 92, 200)


def test_first_dilated_block_is_torchvisions(build_coco):
    blocks = build_coco("detr_panoptic_dc5_r50").backbone.res5
    assert [block.conv2.dilation for block in blocks] == [(1, 1), (2, 2), (2, 2)]
    assert all(block.conv2.stride == (1, 1) and block.conv2.padding == block.conv2.dilation for block in blocks)


def test_authors_config_merges_with_our_name(tmp_path):
    path = tmp_path / "detr.yaml"
    path.write_text(yaml.safe_dump(UPSTREAM_CONFIG))
    cfg = load_config(path, ["MODEL.META_ARCHITECTURE", "PSFDetrPanoptic", "MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
        rates = {group["lr"] for group in build_optimizer(cfg, model).param_groups}
    assert isinstance(model, PSFDetrPanoptic)
    assert sorted(rates) == pytest.approx([1e-5, 1e-4])


@pytest.mark.parametrize("source", ["upstream", "ours"])
def test_crops_come_before_the_resize_for_half_of_the_pictures(config_dir, tmp_path, source):
    path = config_dir / "coco/detr_panoptic_r50.yaml"
    if source == "upstream":
        path = tmp_path / "detr.yaml"
        path.write_text(yaml.safe_dump(UPSTREAM_CONFIG))
    cfg = load_config(path, ["MODEL.META_ARCHITECTURE", "PSFDetrPanoptic"])
    first, *others = build_augmentations(cfg, is_train=True)
    assert [type(step).__name__ for step in others] == ["ResizeShortestEdge", "RandomFlip"]
    assert first.prob == 0.5
    resize, crop = first.aug.augs
    assert list(resize.short_edge_length) == [400, 500, 600]
    assert (crop.crop_type, tuple(crop.crop_size)) == ("absolute_range", (384, 600))


def test_keys_of_the_wrapper_have_its_values():
    cfg = get_cfg()
    add_detr_panoptic_config(cfg)
    assert {key: cfg.MODEL.DETR[key] for key in UPSTREAM_KEYS} == UPSTREAM_KEYS
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BACKBONE_MULTIPLIER) == ("ADAMW", 0.1)
    assert cfg.MODEL.DETR.FROZEN_WEIGHTS == ""


def test_keys_stand_beside_those_of_another_model():
    cfg = get_cfg()
    add_panoptic_segformer_config(cfg)
    cfg.MODEL.TIMM.NAME = "kept"
    add_detr_panoptic_config(cfg)
    assert cfg.MODEL.TIMM.NAME == "kept"
    assert {"PANOPTIC_SEGFORMER", "DETR", "MASK_WISE_MERGING"} <= set(cfg.MODEL)


@pytest.mark.parametrize("name", COCO_CONFIGS)
def test_configs_build(build_coco, name):
    assert (build_coco(name).mask_head is None) == (name == "detr_boxes_r50")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.DETR.NUM_CLASSES", "80"), "category id 80 of the dataset is not below .* set the key to 201"),
        (("MODEL.DETR.IN_FEATURES", "['res2','p5']"), "IN_FEATURES names p5, but the backbone gives res2"),
        (("MODEL.DETR.IN_FEATURES", "['res5']"), "the mask head takes 4 features"),
        (("MODEL.DETR.PRE_NORM", "True"), "PRE_NORM is True: only False"),
        (("MODEL.DETR.NHEADS", "7"), "HIDDEN_DIM is 256: .* and of MODEL.DETR.NHEADS, 7"),
        (("MODEL.DETR.HIDDEN_DIM", "6", "MODEL.DETR.NHEADS", "1"), "HIDDEN_DIM is 6: set it to a multiple of 4"),
        (("MODEL.DETR.DEC_LAYERS", "0"), "DEC_LAYERS is 0: set it to 1 or more"),
        (("MODEL.DETR.NUM_OBJECT_QUERIES", "0"), "NUM_OBJECT_QUERIES is 0: set it to 1 or more"),
        (("MODEL.DETR.HIDDEN_DIM", "192"), "multiples of 128 and 8"),
        (("MODEL.MASK_THRESHOLD", "1.0"), "MASK_THRESHOLD is 1.0: it is a probability"),
        (("MODEL.DETR.FROZEN_WEIGHTS", "x.pth", "MODEL.MASK_ON", "False"), "FROZEN_WEIGHTS freezes all but"),
    ],
)
def test_bad_values_are_explained(build_coco, overrides, message):
    with pytest.raises(ValueError, match=message):
        build_coco("detr_panoptic_r50", *overrides)


def test_missing_frozen_weights_are_named(build_coco, tmp_path):
    path = Path(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=f"FROZEN_WEIGHTS is '{path}', which does not exist"):
        build_coco("detr_panoptic_r50", "MODEL.DETR.FROZEN_WEIGHTS", str(path))
