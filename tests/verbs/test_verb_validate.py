from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from panoptic_segformer.cli import main
from panoptic_segformer.data.synthetic import write_scenes

CONFIG = """
DATASETS:
  REGISTER:
    mine_train: {IMAGES: a/images, PANOPTIC_JSON: a/panoptic.json, PANOPTIC_PNG: a/panoptic_png}
    mine_val: {IMAGES: b/images, PANOPTIC_JSON: b/panoptic.json, PANOPTIC_PNG: b/panoptic_png}
    unused: {IMAGES: c, PANOPTIC_JSON: c, PANOPTIC_PNG: c}
  TRAIN: [mine_train]
  TEST: [mine_val]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two datasets and a config of both; of the second, one picture is missing and one area is wrong."""
    write_scenes(tmp_path / "a", 2, seed=1, size=(64, 64))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    content = json.loads((tmp_path / "b/panoptic.json").read_text())
    content["annotations"][0]["segments_info"][0]["area"] = 1
    (tmp_path / "b/panoptic.json").write_text(json.dumps(content))
    (tmp_path / "b/images/000002.jpg").unlink()
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return main(["validate", "--workers", "1", *words])


def files(name):
    return "--json", f"{name}/panoptic.json", "--png", f"{name}/panoptic_png", "--images", f"{name}/images"


def test_sound_dataset_gives_0(folder, capsys):
    assert run(*files("a")) == 0
    assert "panoptic.json: 0 errors, 0 warnings" in capsys.readouterr().out


def test_faults_give_1_and_are_printed(folder, capsys):
    assert run(*files("b")) == 1
    printed = capsys.readouterr().out
    assert "error: picture-missing, once" in printed
    assert "error: area-wrong, once" in printed
    assert "panoptic.json: 2 errors, 0 warnings" in printed


def test_warnings_alone_give_0(folder, capsys):
    content = json.loads((folder / "a/panoptic.json").read_text())
    del content["annotations"][0]
    (folder / "a/panoptic.json").write_text(json.dumps(content))
    assert run(*files("a")) == 0
    assert "0 errors, 1 warning\n" in capsys.readouterr().out


def test_config_names_all_its_datasets(folder, capsys):
    assert run("--config-file", "config.yaml", "--report", "report.json") == 1
    printed = capsys.readouterr().out
    assert "mine_train: 0 errors" in printed
    assert "mine_val: 2 errors" in printed
    sound, faulty = json.loads((folder / "report.json").read_text())["datasets"]
    assert (sound["name"], sound["errors"], sound["warnings"], sound["pictures"]) == ("mine_train", 0, 0, 2)
    assert {fault["name"] for fault in sound["faults"]} == {"category-unused"}
    errors = {fault["name"]: fault for fault in faulty["faults"] if fault["severity"] == "error"}
    assert {name: fault["count"] for name, fault in errors.items()} == {"picture-missing": 1, "area-wrong": 1}
    (example,) = errors["area-wrong"]["examples"]
    assert example["seen"] == "area 1"
    assert example["expected"] > 1


def test_one_dataset_of_the_config_is_chosen(folder):
    assert run("--config-file", "config.yaml", "--dataset", "mine_train") == 0


def test_fix_and_statistics_are_written(folder, capsys):
    chosen = ("--config-file", "config.yaml", "--dataset", "mine_val")
    assert run(*chosen, "--fix", "new.json", "--statistics", "s.png") == 1
    assert "new.json: corrected 1 area-wrong; left 1 picture-missing" in capsys.readouterr().out
    assert Image.open(folder / "s.png").width > 500
    assert run("--json", "new.json", *files("a")[2:]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --json, --png and --images, or --config-file"),
        (["--json", "a/panoptic.json"], "give --json, --png and --images"),
        ([*files("a"), "--dataset", "mine_train"], "or --config-file with the datasets"),
        ([*files("a"), "--config-file", "config.yaml"], "not both"),
        (["--config-file", "absent.yaml"], "absent.yaml does not exist"),
        (["--config-file", "config.yaml", "--dataset", "nobody"], "dataset 'nobody' is unknown"),
        (["--config-file", "config.yaml", "--dataset", "unused"], "folder"),
        (["--config-file", "config.yaml", "--dataset", "coco_2017_val"], "not in COCO-panoptic form"),
        (["--config-file", "config.yaml", "--dataset", "coco_2017_val_panoptic"], "does not exist"),
        (["--config-file", "config.yaml", "--fix", "new.json"], "need one dataset"),
        ([*files("a"), "--fix", "a/panoptic.json"], "a/panoptic.json exists"),
        (["--json", "absent.json", *files("a")[2:]], "absent.json does not exist"),
        ([*files("a"), "--report", "absent/report.json"], "folder absent does not exist, make it first"),
        ([*files("a"), "--statistics", "absent/s.png"], "folder absent does not exist, make it first"),
        ([*files("a"), "--statistics", "statistics.nothing"], "nothing"),
    ],
)
def test_wrong_words_give_one_plain_message(folder, words, message, capsys):
    before = (folder / "a/panoptic.json").read_text()
    assert run(*words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("panseg validate: ")
    assert message in last
    assert (folder / "a/panoptic.json").read_text() == before


def test_config_without_datasets_is_refused(folder, capsys):
    (folder / "config.yaml").write_text("DATASETS: {TRAIN: [], TEST: []}\n")
    assert run("--config-file", "config.yaml") == 2
    assert "names no dataset" in capsys.readouterr().err
