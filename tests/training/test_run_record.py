from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess

import pytest
import torch

from panoptic_segformer.data.datasets import PanopticPaths
from panoptic_segformer.training import run_record
from panoptic_segformer.training.run_record import dataset_hash, find_changes, read_runs, source_state, write_run_record


@pytest.fixture
def dataset(tmp_path) -> PanopticPaths:
    folder = tmp_path / "data"
    for name in ("images/a", "png"):
        (folder / name).mkdir(parents=True)
    (folder / "images/a/1.jpg").write_bytes(b"12345")
    (folder / "images/2.jpg").write_bytes(b"1")
    (folder / "png/1.png").write_bytes(b"123")
    (folder / "panoptic.json").write_text('{"images": []}')
    return PanopticPaths(str(folder / "images"), str(folder / "panoptic.json"), str(folder / "png"))


def moved(paths: PanopticPaths, tmp_path) -> PanopticPaths:
    folder = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data", folder)
    return PanopticPaths(str(folder / "images"), str(folder / "panoptic.json"), str(folder / "png"))


def test_dataset_hash_is_of_the_content_wherever_it_lies(dataset, tmp_path):
    copy = moved(dataset, tmp_path)
    os.utime(copy.panoptic_json, (0, 0))
    assert dataset_hash(dataset) == dataset_hash(copy)
    assert len(dataset_hash(dataset)) == 64


@pytest.mark.parametrize("change", ["json", "size", "name", "added", "other folder"])
def test_dataset_hash_sees_a_change(dataset, tmp_path, change):
    before = dataset_hash(dataset)
    folder = tmp_path / "data"
    if change == "json":
        (folder / "panoptic.json").write_text('{"images": {}}')
    elif change == "size":
        (folder / "png/1.png").write_bytes(b"1234")
    elif change == "name":
        (folder / "images/2.jpg").rename(folder / "images/3.jpg")
    elif change == "added":
        (folder / "images/a/0.jpg").touch()
    else:
        (folder / "images/2.jpg").rename(folder / "png/2.jpg")
    assert dataset_hash(dataset) != before


def test_dataset_hash_of_a_missing_folder_fails(dataset, tmp_path):
    shutil.rmtree(tmp_path / "data/png")
    with pytest.raises(FileNotFoundError, match="png"):
        dataset_hash(dataset)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_source_state_knows_commit_and_changes_of_tracked_files_alone(tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert source_state(tmp_path) is None  # no repository
    git("init", "-q")
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1\n")
    assert source_state(package) is None  # somebody else's repository, as of a virtual environment in it
    git("add", "-A")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert source_state(package) == {"commit": commit, "is_changed": False}
    (package / "b.py").touch()
    assert source_state(package) == {"commit": commit, "is_changed": False}
    (package / "a.py").write_text("2\n")
    assert source_state(package) == {"commit": commit, "is_changed": True}


def test_source_state_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_state(run_record.Path(run_record.__file__).parent) is None


def test_record_has_what_a_repetition_needs(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_net.py", "--config-file", "a b.yaml"])
    cfg = tiny_config("SEED", "7")
    write_run_record(cfg, tmp_path, resume=False)
    (run,) = read_runs(tmp_path)
    assert run["command"] == "train_net.py --config-file 'a b.yaml'"
    assert (run["seed"], run["world_size"], run["is_resumed"]) == (7, 1, False)
    assert run["environment"]["torch"] == torch.__version__
    assert run["config"]["MODEL"]["PANOPTIC_SEGFORMER"]["EMBED_DIM"] == 32
    assert set(run["data"]) == {"synthetic_train", "synthetic_val"}
    assert all(len(entry) == 64 for entry in run["data"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_resumed_training_adds_an_entry_and_names_what_matters(tiny_config, tmp_path, caplog):
    write_run_record(tiny_config("SEED", "7"), tmp_path, resume=False)
    with caplog.at_level(logging.WARNING):
        write_run_record(tiny_config("SEED", "7", "SOLVER.MAX_ITER", "9", "OUTPUT_DIR", "b"), tmp_path, resume=True)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        write_run_record(tiny_config("SEED", "7", "SOLVER.BASE_LR", "0.5"), tmp_path, resume=True)
    assert "SOLVER.BASE_LR: 0.001 -> 0.5" in caplog.text
    assert "MAX_ITER" not in caplog.text
    assert [run["is_resumed"] for run in read_runs(tmp_path)] == [False, True, True]
    write_run_record(tiny_config("SEED", "7"), tmp_path, resume=False)
    assert len(read_runs(tmp_path)) == 1


def test_changes_of_data_versions_processes_and_source_are_named():
    before = {
        "world_size": 8,
        "source": {"commit": "a", "is_changed": False},
        "environment": {"torch": "2.11", "numpy": "2.4"},
        "data": {"mine": "12", "val": "5"},
        "config": {"SOLVER": {"MAX_ITER": 3, "STEPS": [1]}, "OUTPUT_DIR": "a"},
    }
    assert find_changes(before, before) == []
    after = json.loads(json.dumps(before))
    after["world_size"] = 2
    after["source"] = None
    after["environment"]["torch"] = "2.15"
    after["data"]["mine"] = "34"
    after["config"] = {"SOLVER": {"MAX_ITER": 4, "STEPS": [2]}, "OUTPUT_DIR": "b", "NEW": 1}
    assert find_changes(before, after) == [
        "world_size: 8 -> 2",
        "source: {'commit': 'a', 'is_changed': False} -> None",
        "torch: 2.11 -> 2.15",
        "SOLVER.STEPS: [1] -> [2]",
        "NEW: None -> 1",
        "data of mine: 12 -> 34",
    ]


@pytest.mark.parametrize("content", ["{", "[]", '{"runs": 1}'])
def test_broken_record_is_written_anew_with_a_warning(tiny_config, tmp_path, caplog, content):
    (tmp_path / "run.json").write_text(content)
    write_run_record(tiny_config(), tmp_path, resume=True)
    assert "run.json can't be read" in caplog.text
    assert len(read_runs(tmp_path)) == 1


def test_missing_data_is_said_and_left_to_whatever_needs_it(tiny_config, tmp_path):
    cfg = tiny_config("DATASETS.REGISTER.synthetic_val.PANOPTIC_JSON", "absent.json", "DATASETS.TRAIN", "('no_such',)")
    write_run_record(cfg, tmp_path, resume=False)
    data = read_runs(tmp_path)[0]["data"]
    assert "absent.json" in data["synthetic_val"]
    assert data["no_such"].startswith("unknown: dataset 'no_such' is unknown")


def test_other_processes_write_nothing(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(run_record.comm, "is_main_process", lambda: False)
    write_run_record(tiny_config(), tmp_path, resume=False)
    assert not list(tmp_path.iterdir())
