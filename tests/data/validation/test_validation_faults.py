"""Every class of faults, put into sound scenes: exactly it is found, as often as it is there."""

from __future__ import annotations

from collections import Counter

import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import SizeMismatchError
from hypothesis import given, settings
from hypothesis import strategies as st
from injected_scenes import OF_DATASETS, OF_PICTURES, Scenes, write_text

from panoptic_segformer import load_config
from panoptic_segformer.data import PanopticDatasetMapper
from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.data.validation import ALL_FAULTS, Severity
from panoptic_segformer.evaluation.truth import PanopticTruth

# Json that is none, and what is reported.
TEXTS = {
    "json-unreadable": '{"images": [{"id"',
    "list-missing": '{"images": [], "annotations": [{}]}',
    "list-empty": '{"images": [], "annotations": [], "categories": []}',
}
# Errors that training and evaluation don't see: they would give wrong results in silence.
SILENT = {
    "area-wrong",
    "category-name-repeated",
    "crowd-on-stuff",
    "picture-clipped",
    "picture-id-repeated",
    "stuff-twice",
}


def read_all(scenes: Scenes, config_dir, monkeypatch) -> None:
    """Read the dataset as training and evaluation do."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes.root))
    cfg = load_config(config_dir / "synthetic/panoptic_segformer_lite0.yaml")
    cfg.DATASETS.REGISTER.synthetic_train.IMAGES = "images"
    cfg.DATASETS.REGISTER.synthetic_train.PANOPTIC_JSON = "panoptic.json"
    cfg.DATASETS.REGISTER.synthetic_train.PANOPTIC_PNG = "panoptic_png"
    cfg.DATASETS.TEST = ()
    register_datasets(cfg)
    mapper = PanopticDatasetMapper(cfg, True)
    for entry in DatasetCatalog.get("synthetic_train"):
        mapper(entry)
    truth = PanopticTruth.of_dataset("synthetic_train")
    for image_id in truth.annotations:
        truth.segment_areas(image_id)


def is_error(name: str) -> bool:
    return ALL_FAULTS[name].severity is Severity.ERROR


def test_sound_scenes_have_no_fault_and_can_be_read(scenes, config_dir, monkeypatch):
    assert scenes.counts() == {}
    read_all(scenes, config_dir, monkeypatch)


def test_every_class_of_faults_has_a_test():
    assert {*OF_PICTURES, *OF_DATASETS, *TEXTS} == set(ALL_FAULTS)
    assert set(ALL_FAULTS) > SILENT


def test_faults_are_explained():
    for fault in ALL_FAULTS.values():
        assert fault.explanation.endswith(".")
        assert len(fault.remedy) > 5
        assert not fault.remedy.endswith(".")


@pytest.mark.parametrize("name", OF_PICTURES)
def test_fault_of_pictures_is_found_and_counted(name, scenes, config_dir, monkeypatch):
    for k in (1, 3):
        OF_PICTURES[name](scenes, k)
    found = scenes.validate()
    assert found.tally.counts == {name: 2}
    assert len(found.tally.examples[name]) == 2
    agrees(name, scenes, config_dir, monkeypatch)


@pytest.mark.parametrize("name", OF_DATASETS)
def test_fault_of_datasets_is_found_and_counted(name, scenes, config_dir, monkeypatch):
    OF_DATASETS[name](scenes)
    assert scenes.counts() == {name: 1}
    agrees(name, scenes, config_dir, monkeypatch)


@pytest.mark.parametrize("name", TEXTS)
def test_json_that_is_none_is_found(name, scenes, config_dir, monkeypatch):
    write_text(scenes, TEXTS[name])
    counts = scenes.counts()
    counts.pop("picture-not-named")
    counts.pop("png-not-named")
    assert counts.keys() - {"key-missing"} == {name}
    agrees(name, scenes, config_dir, monkeypatch)


def agrees(name: str, scenes: Scenes, config_dir, monkeypatch) -> None:
    """Check that training and evaluation refuse the dataset exactly if the fault is an error that they see."""
    if is_error(name) and name not in SILENT:
        with pytest.raises((ValueError, FileNotFoundError, KeyError, TypeError, SizeMismatchError)):
            read_all(scenes, config_dir, monkeypatch)
    else:
        read_all(scenes, config_dir, monkeypatch)


@settings(max_examples=25)
@given(names=st.lists(st.sampled_from(sorted(OF_PICTURES)), min_size=2, max_size=6))
def test_faults_do_not_hide_each_other(names, sound_scenes, tmp_path_factory):
    scenes = Scenes(sound_scenes, tmp_path_factory.mktemp("several") / "scenes")
    for k, name in enumerate(names):
        OF_PICTURES[name](scenes, k)
    assert scenes.counts() == Counter(names)
