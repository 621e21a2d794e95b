"""Registration from yaml, and what it says about bad data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from panoptic_segformer import add_panoptic_segformer_config
from panoptic_segformer.data.datasets import register_datasets


def test_register_from_yaml_gives_dicts_and_metadata(files, tmp_path: Path) -> None:
    yaml = tmp_path / "config.yaml"
    yaml.write_text(
        "DATASETS:\n  REGISTER:\n    from_yaml:\n"
        f"      IMAGES: {files.root}/images\n"
        f"      PANOPTIC_JSON: {files.json_path}\n"
        f"      PANOPTIC_PNG: {files.root}/png\n"
        '  TRAIN: ("from_yaml",)\n'
    )
    cfg = get_cfg()
    add_panoptic_segformer_config(cfg)
    cfg.merge_from_file(str(yaml))
    register_datasets(cfg)
    register_datasets(cfg)

    first, second = DatasetCatalog.get("from_yaml")
    assert first["file_name"] == str(files.image_path(1))
    assert first["pan_seg_file_name"] == str(files.root / "png" / "1.png")
    assert (first["image_id"], first["height"], first["width"]) == (1, 24, 32)
    assert [(s["category_id"], s["isthing"], s["iscrowd"]) for s in first["segments_info"]] == [
        (3, False, 0),
        (1, False, 0),
        (0, True, 0),
        (2, True, 1),
    ]
    assert second["image_id"] == 2
    metadata = MetadataCatalog.get("from_yaml")
    assert metadata.thing_classes == metadata.stuff_classes == ["cat", "grass", "dog", "sky"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 12: 2}
    assert metadata.stuff_dataset_id_to_contiguous_id == {7: 1, 20: 3}
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)


def test_register_coco_gives_the_metadata_of_detectron2(files) -> None:
    files.content["categories"] = [dict(category) for category in COCO_CATEGORIES]
    files.save()
    register_datasets(files.config())
    ours, theirs = (MetadataCatalog.get(name).as_dict() for name in ("small", "coco_2017_train_panoptic"))
    for key in ("name", "image_root", "panoptic_root", "panoptic_json", "json_file"):
        ours.pop(key, None)
        theirs.pop(key, None)
    assert ours == theirs


def test_register_joins_relative_paths_to_the_dataset_folder(files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(files.root.parent))
    cfg, folder = files.config(), files.root.name
    cfg.DATASETS.REGISTER.small = CfgNode(
        {"IMAGES": f"{folder}/images", "PANOPTIC_JSON": f"{folder}/panoptic.json", "PANOPTIC_PNG": f"{folder}/png"}
    )
    register_datasets(cfg)
    assert DatasetCatalog.get("small")[0]["file_name"] == str(files.image_path(1))


def test_register_reads_only_the_categories(files) -> None:
    files.content["annotations"][0]["segments_info"][0]["category_id"] = 99
    files.content["info"] = {"description": 'a text with "categories": [ in it'}
    files.save()
    for folder in ("images", "png"):
        shutil.rmtree(files.root / folder)
    register_datasets(files.config())
    assert MetadataCatalog.get("small").thing_classes == ["cat", "grass", "dog", "sky"]


def test_register_gives_colors_where_the_json_has_none(files) -> None:
    files.content["categories"] = [{k: v for k, v in c.items() if k != "color"} for c in files.content["categories"]]
    files.save()
    register_datasets(files.config())
    colors = MetadataCatalog.get("small").thing_colors
    assert len({tuple(color) for color in colors}) == 4
    assert all(0 <= value <= 255 for color in colors for value in color)


def test_register_refuses_a_second_meaning_of_a_name(files, tmp_path: Path) -> None:
    register_datasets(files.config())
    other = files.config()
    other.DATASETS.REGISTER.small.IMAGES = str(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"'small' is taken.*elsewhere"):
        register_datasets(other)
    with pytest.raises(ValueError, match="'coco_2017_val_panoptic' is taken"):
        register_datasets(files.config("coco_2017_val_panoptic"))


@pytest.mark.parametrize(
    "node", [CfgNode({"IMAGES": "a", "PANOPTIC_JSON": "b"}), CfgNode({"IMAGE": "a", "JSON": "b"}), "a/folder"]
)
def test_register_refuses_other_keys(files, node: object) -> None:
    cfg = files.config()
    cfg.DATASETS.REGISTER.small = node
    with pytest.raises(
        ValueError, match=r"REGISTER\.small must have exactly the keys IMAGES, PANOPTIC_JSON, PANOPTIC_PNG"
    ):
        register_datasets(cfg)


def test_register_names_a_missing_json(files) -> None:
    files.json_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"panoptic\.json does not exist.*DETECTRON2_DATASETS"):
        register_datasets(files.config())


@pytest.mark.parametrize("text", ["not json at all", '{"categories": [{"id": 1', "\x89PNG", ""])
def test_register_refuses_what_is_not_json(files, text: str) -> None:
    files.json_path.write_text(text)
    with pytest.raises(ValueError, match=r"panoptic\.json is not a json file"):
        register_datasets(files.config())


def test_register_refuses_a_binary_file(files) -> None:
    files.json_path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"panoptic\.json is not a json file"):
        register_datasets(files.config())


def test_register_refuses_categories_without_isthing(files) -> None:
    for category in files.content["categories"]:
        del category["isthing"]
    files.save()
    with pytest.raises(ValueError, match=r"'categories' of .*panoptic\.json has no isthing"):
        register_datasets(files.config())


@pytest.mark.parametrize("content", [[], {"images": [], "annotations": []}, {"categories": []}])
def test_register_refuses_json_without_the_lists(files, content: object) -> None:
    files.content = content
    files.save()
    with pytest.raises(ValueError, match=r"panoptic\.json is not panoptic, it has no list"):
        register_datasets(files.config())


def test_register_refuses_no_categories(files) -> None:
    files.content["categories"] = []
    files.save()
    with pytest.raises(ValueError, match="has no categories"):
        register_datasets(files.config())


def test_register_refuses_two_categories_with_one_id(files) -> None:
    files.content["categories"] = [*files.content["categories"], {"id": 3, "name": "fox", "isthing": 1}]
    files.save()
    with pytest.raises(ValueError, match="category id 3 to 'cat' and 'fox'"):
        register_datasets(files.config())


@pytest.mark.parametrize("color", [[1, 2], [1, 2, 3, 4], [1, 2, 256], [-1, 2, 3], [0.5, 0.5, 0.5], "red", 7, {"r": 1}])
def test_register_refuses_what_is_no_color(files, color: object) -> None:
    files.content["categories"][2]["color"] = color
    files.save()
    with pytest.raises(
        ValueError, match=r"panoptic\.json gives category 'dog' the color .*three integers from 0 to 255"
    ):
        register_datasets(files.config())


def _load(files) -> list[dict]:
    register_datasets(files.config())
    return DatasetCatalog.get("small")


def test_load_refuses_instance_annotations(files) -> None:
    files.content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5]}]
    files.save()
    with pytest.raises(ValueError, match=r"'annotations' of .*panoptic\.json has no file_name, segments_info"):
        _load(files)


def test_load_refuses_pictures_without_size(files) -> None:
    del files.content["images"][1]["height"]
    files.save()
    with pytest.raises(ValueError, match=r"'images' of .*panoptic\.json has no height"):
        _load(files)


def test_load_names_an_unknown_category(files) -> None:
    files.content["annotations"][1]["segments_info"][1]["category_id"] = 99
    files.save()
    with pytest.raises(ValueError, match=r"picture id 2 \(2\.png\).*category id 99, which is none of the 4"):
        _load(files)


def test_load_names_an_annotation_without_picture(files) -> None:
    del files.content["images"][0]
    files.save()
    with pytest.raises(ValueError, match=r"annotates picture id 1 \(1\.png\), which is not among its 1 'images'"):
        _load(files)


def test_load_refuses_a_segment_id_that_is_listed_twice(files) -> None:
    segments = files.content["annotations"][1]["segments_info"]
    segments.append({**segments[0], "category_id": 3})
    files.save()
    with pytest.raises(
        ValueError, match=rf"of 2\.png in .*panoptic\.json lists .* more than once: {segments[0]['id']};"
    ):
        _load(files)


def test_load_refuses_a_picture_that_is_annotated_twice(files) -> None:
    files.content["annotations"].append({**files.content["annotations"][1], "file_name": "other.png"})
    files.save()
    with pytest.raises(ValueError, match=r"panoptic\.json annotates 1 pictures more than once, ids 2:"):
        _load(files)


def test_load_refuses_an_empty_picture_list(files) -> None:
    files.content["annotations"] = []
    files.save()
    with pytest.raises(ValueError, match="lists no annotated pictures"):
        _load(files)


@pytest.mark.parametrize(("folder", "what"), [("images", "picture"), ("png", "panoptic png")])
def test_load_names_a_missing_folder(files, folder: str, what: str) -> None:
    shutil.rmtree(files.root / folder)
    with pytest.raises(FileNotFoundError, match=rf"folder .*{folder} of the {what} files does not exist"):
        _load(files)


@pytest.mark.parametrize(("file", "what"), [("images/2.jpg", "picture"), ("png/1.png", "panoptic png")])
def test_load_counts_and_names_missing_files(files, file: str, what: str) -> None:
    os.remove(files.root / file)
    with pytest.raises(FileNotFoundError, match=rf"1 of 2 {what} files are missing, first .*{file}"):
        _load(files)


def test_load_finds_files_in_folders_below(files) -> None:
    for folder in ("images", "png"):
        (files.root / folder / "deep").mkdir()
    shutil.move(files.image_path(1), files.root / "images" / "deep" / "1.jpg")
    shutil.move(files.root / "png" / "1.png", files.root / "png" / "deep" / "1.png")
    files.content["images"][0]["file_name"] = "deep/1.jpg"
    files.content["annotations"][0]["file_name"] = "deep/1.png"
    files.save()
    assert _load(files)[0]["file_name"].endswith("deep/1.jpg")


def test_load_leaves_out_pictures_without_annotation(files) -> None:
    files.content["images"].append({"id": 3, "file_name": "3.jpg", "height": 4, "width": 4})
    files.save()
    assert [entry["image_id"] for entry in _load(files)] == [1, 2]


def test_load_real_coco(shared_dir: Path) -> None:
    cfg = get_cfg()
    add_panoptic_segformer_config(cfg)
    root = shared_dir / "data" / "coco_tiny_free"
    cfg.DATASETS.REGISTER.tiny = CfgNode(
        {"IMAGES": f"{root}/images", "PANOPTIC_JSON": f"{root}/panoptic.json", "PANOPTIC_PNG": f"{root}/panoptic_png"}
    )
    cfg.DATASETS.TEST = ("tiny",)
    register_datasets(cfg)
    dicts = DatasetCatalog.get("tiny")
    segments = [segment for entry in dicts for segment in entry["segments_info"]]
    assert len(dicts) == 16
    assert (len(segments), sum(s["isthing"] for s in segments), sum(s["iscrowd"] for s in segments)) == (239, 156, 1)


def test_entries_that_no_list_names_are_left_alone(files) -> None:
    cfg = files.config()
    cfg.DATASETS.REGISTER.elsewhere = CfgNode({"IMAGES": "no", "PANOPTIC_JSON": "no.json", "PANOPTIC_PNG": "no"})
    register_datasets(cfg)
    assert "elsewhere" not in DatasetCatalog.list()
