"""Quality of a model on corrupted pictures, with a model that knows the truth in the place of the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

from panoptic_segformer.cli import main
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.reading import read_picture
from panoptic_segformer.evaluation import build_evaluators
from panoptic_segformer.robustness.corruptions import Corruption, corrupt_picture
from panoptic_segformer.robustness.measuring import CACHE, Measurement, measure_robustness
from panoptic_segformer.robustness.report import draw_corruptions, robustness_table, write_results
from panoptic_segformer.training.trainer import PanopticTrainer
from tiny import tiny_overrides

pytest.importorskip("imagecorruptions", reason="needs the extra 'robustness'")

FOG, SNOW = Corruption("fog", 3), Corruption("snow", 3)


class Knowing(nn.Module):
    """Gives the truth, moved to the right by some pixels on pictures that are brighter than their originals."""

    def __init__(self, measurement: Measurement, fails_after: int = 10**9) -> None:
        super().__init__()
        self.truth = measurement.truth
        self.categories = Categories.from_metadata(MetadataCatalog.get(measurement.dataset))
        self.seen: list[np.ndarray] = []
        self.fails_after = fails_after

    def forward(self, batch):
        (example,) = batch
        if len(self.seen) == self.fails_after:
            raise ValueError("no more")
        self.seen.append(example["image"].numpy())
        original = read_picture(example["file_name"], "RGB")
        step = 8 if self.seen[-1].mean() > original.mean() + 5 else 0
        ids = torch.from_numpy(np.roll(self.truth.segment_ids(example["image_id"]), step, axis=1))
        segments = []
        for segment in self.truth.annotations[example["image_id"]]["segments_info"]:
            isthing = segment["category_id"] in self.truth.thing_ids.values()
            ids_of_kind = self.truth.thing_ids if isthing else self.truth.stuff_ids
            category_id = {value: key for key, value in ids_of_kind.items()}[segment["category_id"]]
            segments.append({"id": segment["id"], "category_id": category_id, "isthing": isthing, "score": 1.0})
        return [{"panoptic_seg": (ids, segments)}]


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save({"model": {}}, path)
    return path


@pytest.fixture
def measure(tiny_config, weights):
    """Function that gives a measurement with the knowing model; arguments: its own, then overrides."""

    def build(*overrides: str, dataset: str = "", limit: int | None = None, fails_after: int = 10**9) -> Measurement:
        measurement = Measurement(tiny_config("MODEL.WEIGHTS", str(weights), *overrides), dataset, limit)
        measurement.__dict__["model"] = Knowing(measurement, fails_after)
        return measurement

    return build


def test_pictures_are_corrupted_before_they_are_resized(measure):
    measurement = measure("INPUT.MIN_SIZE_TEST", "64")
    measurement.measure(SNOW)
    for seen, record in zip(measurement.model.seen, measurement.records, strict=True):
        corrupted = corrupt_picture(read_picture(record["file_name"], "RGB"), SNOW)
        expected = ResizeShortestEdge(64).get_transform(corrupted).apply_image(corrupted)
        np.testing.assert_array_equal(seen.transpose(1, 2, 0), expected)


def test_clean_quality_is_that_of_the_trainers_evaluation(measure):
    measurement = measure()
    cfg = measurement.cfg
    model = Knowing(measurement)
    model.forward = lambda batch, knowing=model.forward: knowing([{**batch[0], "image": batch[0]["image"] * 0 + 255}])
    expected = inference_on_dataset(
        model, PanopticTrainer.build_test_loader(cfg, "synthetic_val"), build_evaluators(cfg, "synthetic_val")
    )["panoptic_seg"]
    measurement.__dict__["model"] = model
    qualities = measurement.measure(None)
    assert 0 < qualities["PQ"] < 100
    assert qualities["PQ"] == pytest.approx(expected["PQ"], abs=1e-9)
    assert qualities["SQ_th"] == pytest.approx(expected["SQ_th"], abs=1e-9)


def test_finished_corruptions_are_not_measured_again(measure, tmp_path):
    first = measure()
    robustness = measure_robustness(first, [FOG, SNOW], tmp_path)
    assert robustness.clean["PQ"] == pytest.approx(100)
    assert list(robustness.corrupted) == [FOG, SNOW]
    assert robustness.corrupted[SNOW]["PQ"] < 99  # snow is bright
    assert len(first.model.seen) == 3 * 2
    again = measure()
    repeated = measure_robustness(again, [SNOW, FOG], tmp_path)
    assert again.model.seen == []
    assert repeated.corrupted[SNOW]["PQ"] == robustness.corrupted[SNOW]["PQ"]


def test_stopped_run_goes_on_where_it_was(measure, tmp_path):
    stopped = measure(fails_after=3)
    with pytest.raises(ValueError, match="no more"):
        measure_robustness(stopped, [FOG, SNOW], tmp_path)
    resumed = measure()
    measure_robustness(resumed, [FOG, SNOW], tmp_path)
    assert len(resumed.model.seen) == 2 * 2


def test_other_weights_config_or_pictures_are_measured_anew(measure, weights, tmp_path):
    measure_robustness(measure(), [], tmp_path)
    limited = measure(limit=1)
    measure_robustness(limited, [], tmp_path)
    assert len(limited.model.seen) == 1
    other_config = measure("INPUT.MIN_SIZE_TEST", "64")
    measure_robustness(other_config, [], tmp_path)
    assert len(other_config.model.seen) == 2
    torch.save({"model": {"other": torch.zeros(1)}}, weights)
    other_weights = measure()
    measure_robustness(other_weights, [], tmp_path)
    assert len(other_weights.model.seen) == 2
    assert len(list((tmp_path / CACHE).rglob("*.json"))) == 4


@pytest.mark.parametrize("changed", ["images", "panoptic_png"])
def test_pictures_and_truth_count_by_their_content(measure, scenes_root, tmp_path, changed):
    folder = tmp_path / "scenes"
    shutil.copytree(scenes_root / "synthetic_scenes/val", folder)
    paths = {"IMAGES": folder / "images", "PANOPTIC_PNG": folder / "panoptic_png"}
    words = [word for key, path in paths.items() for word in (f"DATASETS.REGISTER.synthetic_val.{key}", str(path))]
    before = measure(*words).identity
    assert measure(*words).identity == before
    file = sorted((folder / changed).iterdir())[1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # The size stays.
    file.write_bytes(content)
    assert measure(*words).identity != before


def test_results_are_written(measure, tmp_path):
    measurement = measure()
    robustness = measure_robustness(measurement, [FOG, SNOW], tmp_path)
    write_results(robustness, tmp_path)
    content = json.loads((tmp_path / "robustness.json").read_text())
    assert [entry["name"] for entry in content["corruptions"]] == ["fog", "snow"]
    assert content["corruptions"][1]["qualities"]["PQ"] == robustness.corrupted[SNOW]["PQ"]
    assert content["facts"]["pictures"] == "2"
    assert robustness_table(robustness) in (tmp_path / "robustness.md").read_text()


def test_picture_has_a_row_for_the_clean_scene_and_rows_of_four(measure, tmp_path):
    measurement = measure()
    record = measurement.records[1]
    draw_corruptions(measurement, [FOG] * 5, record, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        width, height = picture.size
        draw_corruptions(measurement, [], record, tmp_path / "two.png")
        assert Image.open(tmp_path / "two.png").size == (width, height * 2 // 6)
    assert width > 4 * 400


def test_unknown_dataset_is_refused(measure):
    with pytest.raises(ValueError, match="'synthetic_vall' is not registered.*did you mean 'synthetic_val'"):
        measure(dataset="synthetic_vall")


def test_dataset_without_truth_is_refused(measure):
    name = "pictures_alone"
    DatasetCatalog.register(name, list)
    try:
        with pytest.raises(ValueError, match="no panoptic truth"):
            measure(dataset=name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_config_without_test_set_is_refused(measure):
    with pytest.raises(ValueError, match=r"DATASETS\.TEST .* is empty"):
        measure("DATASETS.TEST", "()")


def test_missing_weights_are_refused(tiny_config):
    with pytest.raises(FileNotFoundError, match=r"'none\.pth' do not exist"):
        Measurement(tiny_config("MODEL.WEIGHTS", "none.pth"))


def test_small_pictures_are_refused_before_anything_is_measured(measure, scenes_root, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(scenes_root / "synthetic_scenes/val", folder)
    content = json.loads((folder / "panoptic.json").read_text())
    content["images"][1]["height"] = 20
    (folder / "panoptic.json").write_text(json.dumps(content))
    names = {"IMAGES": "images", "PANOPTIC_JSON": "panoptic.json", "PANOPTIC_PNG": "panoptic_png"}
    paths = [
        word for key, name in names.items() for word in (f"DATASETS.REGISTER.synthetic_val.{key}", f"{folder}/{name}")
    ]
    with pytest.raises(ValueError, match=r"1 of 2 pictures can't be corrupted.*\(20, 128\)"):
        measure(*paths)


def test_command_says_what_is_wrong(config_dir, capsys, tmp_path):
    words = ["robustness", "--config-file", str(config_dir / "synthetic/panoptic_segformer_lite0.yaml")]
    words += ["--weights", "none.pth", "--output", str(tmp_path / "out")]
    assert main([*words, "--severity", "7"]) == 2
    assert "severity 7 does not exist" in capsys.readouterr().err
    assert main([*words, "--corruptions", "rain"]) == 2
    assert "no corruption 'rain'" in capsys.readouterr().err
    assert main(words) == 2
    assert "'none.pth' do not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_command_from_weights_to_table(tiny_config, config_dir, capsys, tmp_path):
    cfg = tiny_config()
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    words = ["robustness", "--config-file", str(config_dir / "synthetic/panoptic_segformer_lite0.yaml")]
    words += ["--weights", str(tmp_path / "model.pth"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--corruptions", "fog", "--severity", "1", "5", "--limit", "1"]
    assert main([*words, "--opts", *tiny_overrides(tmp_path)]) == 0
    assert "| weather | fog" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        CACHE, "robustness.json", "robustness.md", "corruptions.jpg",
    }  # fmt: skip
    assert main([*words, "--shown", "2", "--opts", *tiny_overrides(tmp_path)]) == 2
    assert "there are 1 pictures" in capsys.readouterr().err
