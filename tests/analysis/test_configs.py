"""Every config builds its model, and the table tells what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panoptic_segformer import load_config
from panoptic_segformer.analysis import build_for_sizing, summarize_configs

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
COMPLETE = sorted(
    path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("Base-") and path.parent.name != "comparisons"
)


def write_datasets(cfg, root: Path) -> tuple[int, int]:
    """Write a json without pictures for each dataset that a config registers; return their thing and stuff classes."""
    node = cfg.MODEL.get("PANOPTIC_SEGFORMER")
    has_counts = node is not None and node.NUM_THING_CLASSES
    things, stuff = (node.NUM_THING_CLASSES, node.NUM_STUFF_CLASSES) if has_counts else (3, 2)
    categories = [
        {"id": i, "name": f"class {i}", "isthing": int(i <= things), "color": [i % 256, 0, 0]}
        for i in range(1, things + stuff + 1)
    ]
    for entry in cfg.DATASETS.REGISTER.values():
        path = root / entry.PANOPTIC_JSON
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    return things, stuff


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_config_builds_its_model(path, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = load_config(path)
    written = write_datasets(cfg, tmp_path)
    model = build_for_sizing(cfg, "meta")
    if cfg.DATASETS.TRAIN[0] in cfg.DATASETS.REGISTER:
        assert (model.categories.num_things, model.categories.num_stuff) == written
    assert all(parameter.is_meta for parameter in model.parameters())
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        assert cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER
    assert cfg.OUTPUT_DIR.startswith("output/")


def test_output_folders_differ():
    folders = [load_config(path).OUTPUT_DIR for path in COMPLETE]
    assert len(set(folders)) == len(folders)


def test_table_tells_backbone_schedule_and_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    rows = {row.name: row for row in summarize_configs(CONFIGS)}
    assert sorted(rows) == [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in COMPLETE]
    released = rows["coco/panoptic_segformer_r50_1x"]
    assert (released.backbone, released.iterations, released.batch) == ("ResNet-50", 177_431, 8)
    assert released.classes == (80, 53)
    assert released.parameters.total == 51_218_780
    assert rows["coco/panoptic_segformer_v1_r50"].form == "joint"
    assert rows["coco/panoptic_segformer_r50_2x_things"].form == "things alone"
    lite = rows["synthetic/panoptic_segformer_lite0"]
    assert lite.backbone == "tf_efficientnet_lite0"
    assert lite.classes is None
    assert lite.parameters is None
    # As the README says.
    unknown = [name for name, row in rows.items() if row.classes is None]
    assert {name.split("/")[0] for name in unknown} == {"ade20k", "custom", "synthetic"}
    assert not any(name.startswith("ade20k/panoptic_segformer") for name in unknown)


@pytest.mark.parametrize(("name", "classes"), [("ade20k", (100, 50)), ("cityscapes", (8, 11))])
def test_classes_are_known_without_the_data(name, classes, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    summaries = [row for row in summarize_configs(CONFIGS / name) if row.name.startswith("panoptic_segformer")]
    assert summaries
    for summary in summaries:
        assert summary.classes == classes
        assert summary.parameters.total > 25_000_000


def test_folder_without_configs_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config"):
        summarize_configs(tmp_path)


def test_invalid_config_is_named(tmp_path):
    (tmp_path / "wrong.yaml").write_text("MODEL: {NO_SUCH_KEY: 1}\n")
    with pytest.raises(ValueError, match=r"wrong\.yaml.*NO_SUCH_KEY"):
        summarize_configs(tmp_path)


def test_missing_data_without_class_counts_raises(config_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"panoptic_train\.json"):
        build_for_sizing(load_config(config_dir / "custom/example.yaml"), "meta")


@pytest.mark.parametrize(("things", "stuff", "segments"), [(80, 0, "all"), (0, 53, "all"), (0, 53, "things")])
def test_missing_data_with_one_class_count_of_two_raises(things, stuff, segments, config_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    node = "MODEL.PANOPTIC_SEGFORMER"
    opts = [f"{node}.NUM_THING_CLASSES", things, f"{node}.NUM_STUFF_CLASSES", stuff, f"{node}.SEGMENTS", segments]
    with pytest.raises(FileNotFoundError, match=r"panoptic_train\.json"):
        build_for_sizing(load_config(config_dir / "custom/example.yaml", opts), "meta")


def test_missing_data_with_both_class_counts_needs_no_json(config_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    node = "MODEL.PANOPTIC_SEGFORMER"
    opts = [f"{node}.NUM_THING_CLASSES", 5, f"{node}.NUM_STUFF_CLASSES", 2]
    model = build_for_sizing(load_config(config_dir / "custom/example.yaml", opts), "meta")
    assert (model.categories.num_things, model.categories.num_stuff) == (5, 2)


def test_missing_data_needs_no_count_of_segments_that_are_not_learned(config_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    node = "MODEL.PANOPTIC_SEGFORMER"
    opts = [f"{node}.NUM_THING_CLASSES", 5, f"{node}.SEGMENTS", "things"]
    model = build_for_sizing(load_config(config_dir / "custom/example.yaml", opts), "meta")
    assert (model.categories.num_things, model.categories.num_stuff) == (5, 0)


def test_model_that_cannot_be_sized_raises(config_dir):
    cfg = load_config(config_dir / "coco/panoptic_segformer_r50_1x.yaml", ["MODEL.BACKBONE.NAME", "no_backbone"])
    with pytest.raises(ValueError, match=r"MODEL.BACKBONE.NAME is 'no_backbone'"):
        build_for_sizing(cfg, "meta")


def test_config_itself_stays_as_it_is(config_dir):
    cfg = load_config(config_dir / "coco/panoptic_segformer_r50_1x.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.freeze()
    build_for_sizing(cfg, "meta")
    assert cfg.MODEL.DEVICE == "cpu"
