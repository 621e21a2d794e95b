from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.mapper import PanopticDatasetMapper
from panoptic_segformer.training.trainer import PanopticTrainer
from panoptic_segformer.training.validation_pictures import put_validation_pictures
from panoptic_segformer.visualization import draw_example


@pytest.fixture
def drawn(tiny_config):
    """Function that gives the pictures in the storage by name, after one call for a model in training mode."""

    def draw(*overrides: str):
        cfg = tiny_config(*overrides)
        torch.manual_seed(0)
        model = build_model(cfg).train()
        with EventStorage(3) as storage:
            put_validation_pictures(cfg, model)
        assert model.training
        return {name: picture for name, picture, _ in storage._vis_data}

    return draw


def test_pictures_are_those_of_the_test_set_with_truth_and_prediction(drawn, tiny_config):
    lenient = ["MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD", "0.0"]
    pictures = drawn("TEST.VALIDATION_PICTURES", "4", *lenient)
    records = {f"validation/synthetic_val/{r['image_id']}": r for r in DatasetCatalog.get("synthetic_val")}
    assert pictures.keys() == records.keys()  # there are two
    categories = Categories.from_metadata(MetadataCatalog.get("synthetic_val"))
    cfg = tiny_config(*lenient)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    mapper = PanopticDatasetMapper(cfg, is_train=False)
    for name, picture in pictures.items():
        with torch.no_grad():
            prediction = model([mapper(records[name])])[0]["panoptic_seg"]
        assert prediction[1]
        assert picture.dtype == np.uint8
        assert np.array_equal(picture.transpose(1, 2, 0), draw_example(records[name], prediction, categories))


def test_pictures_spread_over_the_set(drawn):
    pictures = drawn("TEST.VALIDATION_PICTURES", "2", "DATASETS.TEST", "('synthetic_train',)")
    ids = [record["image_id"] for record in DatasetCatalog.get("synthetic_train")]
    assert list(pictures) == [f"validation/synthetic_train/{ids[index]}" for index in (0, 3)]


def test_drawing_draws_no_random_number(tiny_config):
    cfg = tiny_config()
    model = build_model(cfg).train()
    before = drawn_next = None
    for is_drawing in (False, True):
        seed_all_rng(1)
        if is_drawing:
            with EventStorage(0):
                put_validation_pictures(cfg, model)
        before, drawn_next = drawn_next, (torch.rand(()).item(), np.random.random(), random.random())  # noqa: NPY002
    assert before == drawn_next


def test_models_without_panoptic_results_show_nothing(drawn):
    assert drawn("MODEL.PANOPTIC_SEGFORMER.TEST.PANOPTIC_ON", "False") == {}


def test_unreadable_truth_is_a_warning(drawn, scenes_root, tmp_path, monkeypatch, caplog):
    shutil.copytree(scenes_root, tmp_path / "data")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    for path in (tmp_path / "data/synthetic_scenes/val/panoptic_png").iterdir():
        path.write_text("no png")
    assert drawn() == {}
    assert "validation pictures of synthetic_val can't be drawn" in caplog.text


@pytest.mark.parametrize("number", [0, 1])
def test_evaluation_in_a_training_shows_them_and_another_does_not(tiny_config, number):
    cfg = tiny_config("TEST.VALIDATION_PICTURES", str(number))
    model = build_model(cfg)
    PanopticTrainer.test(cfg, model)  # there is no storage: nothing to fail
    with EventStorage(0) as storage:
        results = PanopticTrainer.test(cfg, model)
    assert "panoptic_seg" in results
    assert len(storage._vis_data) == number
