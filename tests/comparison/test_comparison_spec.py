"""The comparison's file: what it may say, and plain words for everything else."""

from __future__ import annotations

from datetime import date

import pytest
import yaml

from panoptic_segformer.comparison.spec import DatasetSpec, read_spec


@pytest.fixture
def content(tmp_path):
    """What a file with one model says."""
    for name in ("config.yaml", "weights.pth", "other.yaml"):
        (tmp_path / name).write_text("")
    model = {"name": "one", "config": "config.yaml", "weights": "weights.pth"}
    return {"dataset": "coco_2017_val_panoptic", "models": [model]}


@pytest.fixture
def read(tmp_path, content):
    """Function that reads the file with some keys, and keys of its model, changed; None removes a key."""

    def read_changed(changes=(), model=(), only=()):
        changed = {**content, **dict(changes)}
        if model:
            record = {**content["models"][0], **dict(model)}
            changed["models"] = [{key: value for key, value in record.items() if value is not None}]
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in changed.items() if value is not None}))
        return read_spec(path, only)

    return read_changed


def test_files_are_found_beside_the_spec(read, tmp_path):
    (model,) = read().models
    assert model.config == str(tmp_path / "config.yaml")
    assert model.weights == str(tmp_path / "weights.pth")


def test_files_are_found_in_the_working_folder_and_a_config_in_its_project(read, tmp_path, monkeypatch):
    (tmp_path / "project/configs").mkdir(parents=True)
    (tmp_path / "project/configs/a.yaml").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/my.pth").write_text("")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (model,) = read(model={"paths": ["project"], "config": "configs/a.yaml", "weights": "my.pth"}).models
    assert model.config == str(tmp_path / "project/configs/a.yaml")
    assert model.weights == "my.pth"


def test_setup_tells_external_models_from_ours(read):
    assert read().models[0].setup is None
    assert read(model={"setup": []}).models[0].setup == ()


def test_addresses_of_weights_are_left_as_they_are(read):
    assert read(model={"weights": "psf://r50"}).models[0].weights == "psf://r50"


def test_dataset_by_name_by_paths_and_limited(read):
    assert read().dataset == DatasetSpec(name="coco_2017_val_panoptic")
    paths = {"images": "a", "panoptic_json": "b", "panoptic_png": "c"}
    assert read({"dataset": {**paths, "limit": 3}}).dataset == DatasetSpec("", "a", "b", "c", 3)
    assert read({"dataset": {"name": "x", "limit": 3}}).dataset == DatasetSpec("x", limit=3)


def test_title_is_the_files_name_unless_given(read):
    assert read().title == "spec"
    assert read({"title": "Streets"}).title == "Streets"


def test_only_some_models_and_the_others_need_not_even_exist(read, content):
    models = [content["models"][0], {"name": "lost", "config": "nowhere.yaml", "weights": "nowhere.pth"}]
    assert [model.name for model in read({"models": models}, only=["one"]).models] == ["one"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": None}, "neither of 'dataset'.*and 'pictures': give one"),
        ({"pictures": ["a.jpg"]}, "both of 'dataset'"),
        ({"models": []}, "'models' is empty"),
        ({"models": None}, "'models' must be a list"),
        ({"models": "one"}, "'models' must be a list, got 'one'"),
        ({"models": ["one"]}, "model 1 must be a mapping, got 'one'"),
        ({"modles": []}, "unknown key 'modles', did you mean 'models'"),
        ({"dataset": None, "pictures": []}, "'pictures' is empty"),
        ({"dataset": {"images": "a", "panoptic_json": "b"}}, "'dataset' has no 'panoptic_png'"),
        ({"dataset": {"image": "a"}}, "unknown key 'image', did you mean 'images'"),
        ({"dataset": {"name": "a", "images": "b"}}, "give the name alone or the three paths"),
        ({"dataset": {"name": "a", "limit": 0}}, "'limit' must be a whole number of at least 1, got 0"),
        ({"dataset": ""}, "'dataset' must be a mapping, got ''"),
        ({"dataset": 5}, "'dataset' must be a mapping"),
        ({"oracles": "yes"}, "'oracles' must be true or false, got 'yes'"),
        ({"oracles": True, "dataset": None, "pictures": ["a.jpg"]}, "'oracles' correct errors by the truth"),
        ({"flops_size": 800}, r"'flops_size' must be \[height, width\]"),
        ({"flops_size": [800, 8]}, r"'flops_size' must be \[height, width\]"),
    ],
)
def test_wrong_file_is_said_in_plain_words(read, changes, message):
    with pytest.raises(ValueError, match=message):
        read(changes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": None}, "model 1 has no 'name'"),
        ({"weights": None}, "model 'one' has no 'weights'"),
        ({"wieghts": "a"}, "unknown key 'wieghts', did you mean 'weights'"),
        ({"opts": ["MODEL.X"]}, "'opts' must be keys and values in turn"),
        ({"opts": [1, 2]}, "'opts' must be keys and values in turn"),
        ({"opts": ["OUTPUT_DIR", date(2024, 1, 31)]}, "'opts' gives OUTPUT_DIR the date 2024-01-31: put it in quotes"),
        ({"setup": "a:b"}, "'setup' must be a list, got 'a:b'"),
        ({"setup": [3]}, "an entry of 'setup' must be text, got 3"),
        ({"trust": "no"}, "'trust' must be true or false"),
        ({"published": {"PQ": [1]}}, r"'published' must give numbers or texts by column, got PQ: \[1\]"),
        ({"published": 46.5}, "'published' must be a mapping"),
        ({"published": {50: 46.5}}, "a column of 'published' must be text, got 50"),
    ],
)
def test_wrong_model_is_said_in_plain_words(read, model, message):
    with pytest.raises(ValueError, match=message):
        read(model=model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"config": "nowhere.yaml"}, "model 'one': config nowhere.yaml does not exist, neither as"),
        ({"weights": "nowhere.pth"}, "model 'one': weights nowhere.pth does not exist"),
        ({"paths": ["nowhere"]}, "model 'one': project folder nowhere does not exist"),
    ],
)
def test_missing_files_are_named_before_any_model_runs(read, model, message):
    with pytest.raises(FileNotFoundError, match=message):
        read(model=model)


def test_two_models_of_one_name_are_refused(read, content):
    with pytest.raises(ValueError, match="two models of the name 'one'"):
        read({"models": content["models"] * 2})


def test_unknown_model_in_only_is_refused(read):
    with pytest.raises(ValueError, match="no model 'on', did you mean 'one'"):
        read(only=["on"])


def test_missing_and_broken_spec_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_spec(tmp_path / "spec.yaml")
    (tmp_path / "spec.yaml").write_text("{")
    with pytest.raises(ValueError, match="is no yaml"):
        read_spec(tmp_path / "spec.yaml")
    (tmp_path / "spec.yaml").write_text("- a")
    with pytest.raises(ValueError, match="must be a mapping"):
        read_spec(tmp_path / "spec.yaml")


def test_pictures_beside_the_spec_come_first(read, tmp_path):
    (tmp_path / "a.jpg").write_text("")
    spec = read({"dataset": None, "pictures": ["a.jpg", "*.jpg", "elsewhere/b.jpg"]})
    assert spec.pictures == (str(tmp_path / "a.jpg"), str(tmp_path / "*.jpg"), "elsewhere/b.jpg")
