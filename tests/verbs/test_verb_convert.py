from __future__ import annotations

import json

import pytest
from PIL import Image

from panoptic_segformer.cli import main

CLASSES = {"categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "grass", "isthing": 0}]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One picture that labelme and COCO label alike: a cat on grass."""
    Image.new("RGB", (20, 12)).save(tmp_path / "a.jpg")
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    cat = [[2, 2], [6, 2], [6, 6], [2, 6]]
    shapes = [{"label": "cat", "points": cat}, {"label": "grass", "points": [[0, 0], [20, 0], [20, 12], [0, 12]]}]
    labels = {"shapes": shapes, "imagePath": "../a.jpg", "imageHeight": 12, "imageWidth": 20}
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.json").write_text(json.dumps(labels))
    image = {"id": 5, "file_name": "a.jpg", "height": 12, "width": 20}
    instance = {"image_id": 5, "category_id": 1, "segmentation": [[v for point in cat for v in point]]}
    (tmp_path / "instances.json").write_text(json.dumps({"images": [image], "annotations": [instance]}))
    (tmp_path / "semantic").mkdir()
    Image.new("L", (20, 12), 2).save(tmp_path / "semantic/a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LABELME = "labelme --root labels --images . --classes classes.json"
INSTANCES = "instances --instances instances.json --semantic semantic --classes classes.json"


@pytest.mark.parametrize("layout", [LABELME, INSTANCES])
def test_converted_dataset_is_valid(folder, layout, capsys):
    assert main(["convert", *layout.split(), "--json", "new/new.json", "--png", "new/png", "--workers", "1"]) == 0
    assert "wrote 2 segments to new/new.json and new/png" in capsys.readouterr().out
    paths = ["--json", "new/new.json", "--png", "new/png", "--images", "."]
    assert main(["validate", *paths, "--workers", "1"]) == 0
    areas = [s["area"] for s in json.loads((folder / "new/new.json").read_text())["annotations"][0]["segments_info"]]
    assert sorted(areas) == [16, 20 * 12 - 16]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (LABELME.replace("classes.json", "absent.json"), "absent.json does not exist"),
        (LABELME.replace("labels", "absent"), "absent"),
        (INSTANCES.replace("semantic", "absent", 2).replace("--absent", "--semantic"), "does not exist"),
        ("cityscapes --root absent --split val", "does not exist"),
        ("ade20k --root absent --split training", "does not exist"),
    ],
)
def test_wrong_paths_give_one_plain_message(folder, words, message, capsys):
    assert main(["convert", *words.split(), "--json", "new.json", "--png", "new"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("panseg convert: ")
    assert message in last
    assert not (folder / "new.json").exists()


def test_layout_is_needed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["convert"])
    assert stopped.value.code == 2
    assert "LAYOUT" in capsys.readouterr().err
