"""Whole comparisons, each model in its own process."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from comparison_fakes import (
    CATEGORIES,
    SEPARATED,
    count_calls,
    person_overlap,
    true_segments,
    write_dataset,
    write_project,
)
from detectron2.modeling import build_model

from panoptic_segformer.analysis import count_flops
from panoptic_segformer.cli import main
from panoptic_segformer.comparison import run
from panoptic_segformer.comparison.cache import PredictionCache
from panoptic_segformer.comparison.job import JobResult
from panoptic_segformer.comparison.results import Category, Picture, Prediction
from panoptic_segformer.profiling.machine import device_name
from tiny import tiny_overrides


@pytest.fixture(autouse=True)
def evaluators_speak_again():
    """The command quiets them for as long as its process lives."""
    yield
    logging.getLogger("panoptic_segformer.evaluation").setLevel(logging.NOTSET)


@pytest.fixture
def pages(monkeypatch):
    """The pages that are written, in place of html: what they were asked to show."""
    shown = []

    def write_page(comparison, output_dir, prediction_of, truth_of):
        shown.append(SimpleNamespace(comparison=comparison, prediction_of=prediction_of, truth_of=truth_of))
        return output_dir / "index.html"

    monkeypatch.setitem(sys.modules, "panoptic_segformer.comparison.page", SimpleNamespace(write_page=write_page))
    return shown


def write_spec(folder, **content):
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def no_processes(monkeypatch):
    """Jobs that are done here: each model sees the truth of the fakes, one fails; returns the jobs."""
    jobs = []

    def predict(job, folder):
        jobs.append(job)
        if job.model.name == "failing":
            return JobResult(error="RuntimeError: no")
        cache = PredictionCache(job.cache)
        ids, records = true_segments()
        segments = [{**record, "isthing": record["category_id"] == 1, "score": None} for record in records]
        for picture in job.pictures:
            cache.write(picture.name, Prediction(ids, segments))
        categories = [Category(c["id"], c["name"], bool(c["isthing"]), tuple(c["color"])) for c in CATEGORIES]
        return JobResult(
            keys={picture.name: picture.name for picture in job.pictures},
            categories=[*categories, Category(77, "dragon", True, (1, 2, 3))],
            facts={"device": "a processor"},
        )

    monkeypatch.setattr(run, "run_in_process", predict)
    return jobs


@pytest.fixture
def write_models(tmp_path):
    """Function that writes a comparison's file with models that have the given names."""
    for name in ("config.yaml", "weights.pth"):
        (tmp_path / name).write_text("")

    def write(*names, **content):
        models = [{"name": name, "config": "config.yaml", "weights": "weights.pth"} for name in names]
        return write_spec(tmp_path, models=models, **content)

    return write


def read_json(folder):
    return json.loads((folder / "comparison.json").read_text())


def test_failed_model_has_a_row_and_the_others_go_on(tmp_path, pages, no_processes, write_models, capsys):
    spec = write_models("failing", "good", dataset=write_dataset(tmp_path / "data", (0, 4)))
    assert main(["compare", str(spec), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 1
    failing, good = read_json(tmp_path / "out")["models"]
    assert failing["error"] == "RuntimeError: no"
    assert failing["qualities"] == {}
    assert good["picture_qualities"]["scene0"] == 100
    assert "classes that the truth lacks" not in good["facts"]
    assert "panseg compare: failing failed: RuntimeError: no" in capsys.readouterr().err
    assert [category.name for category in pages[0].comparison.categories][3:] == ["dragon"]


def test_predicted_classes_that_the_truth_lacks_are_said(tmp_path, pages, no_processes, write_models):
    without_sky = [{**c, "name": "road"} if c["name"].startswith("sky") else c for c in CATEGORIES]
    spec = write_models("good", dataset=write_dataset(tmp_path / "data", (0, 4), without_sky))
    assert main(["compare", str(spec), "--output", str(tmp_path / "out")]) == 0
    facts = read_json(tmp_path / "out")["models"][0]["facts"]
    assert facts["classes that the truth lacks"].startswith("predicted in 2 segments of sky-other-merged;")


def test_all_models_failed(tmp_path, pages, no_processes, write_models, capsys):
    spec = write_models("failing", dataset=write_dataset(tmp_path / "data", (0,)))
    earlier = tmp_path / "out/index.html"
    earlier.parent.mkdir()
    earlier.write_text("of an earlier comparison")
    assert main(["compare", str(spec), "--output", str(tmp_path / "out")]) == 1
    assert read_json(tmp_path / "out")["models"][0]["error"]
    assert not pages
    assert not earlier.exists()
    assert "page:" not in capsys.readouterr().out


def test_pictures_without_truth(tmp_path, pages, no_processes, write_models, capsys):
    dataset = write_dataset(tmp_path / "data", (0, 4))
    (tmp_path / "data/images/scene1.png").write_text("no picture")
    spec = write_models("good", pictures=[dataset["images"]])
    # Done in part.
    assert main(["compare", str(spec), "--output", str(tmp_path / "out"), "--no-cost"]) == 1
    assert "pictures were left out: 1: picture" in capsys.readouterr().err
    content = read_json(tmp_path / "out")
    assert content["models"][0]["qualities"] == {}
    assert "scene1.png cannot be read" in content["facts"]["left out"]
    shown = pages[0]
    (picture,) = shown.comparison.pictures
    assert len(shown.prediction_of("good", picture).segments) == 3
    assert shown.truth_of(picture) is None
    assert [category.id for category in shown.comparison.categories] == [1, 187, 193, 77]
    with pytest.raises(ValueError, match="no prediction of 'good' for other"):
        shown.prediction_of("good", Picture(tmp_path, "other"))


def test_oracles_correct_predictions_by_the_truth(tmp_path, pages, no_processes, write_models, monkeypatch):
    kinds = {"mask": frozenset({"mask"}), "nothing": frozenset()}

    def oracle_prediction(prediction, truth, kinds):
        return truth if "mask" in kinds else prediction

    oracle = SimpleNamespace(ORACLES=kinds, oracle_prediction=oracle_prediction)
    monkeypatch.setitem(sys.modules, "panoptic_segformer.comparison.oracle", oracle)
    spec = write_models("good", dataset=write_dataset(tmp_path / "data", (8,)), oracles=True)
    assert main(["compare", str(spec), "--output", str(tmp_path / "out")]) == 0
    (model,) = read_json(tmp_path / "out")["models"]
    assert model["oracles"] == {"mask": 100, "nothing": model["qualities"]["PQ"]}
    assert model["qualities"]["PQ"] < 90


def test_options_reach_the_jobs_and_json_has_null_for_what_is_not_finite(tmp_path, pages, no_processes, write_models):
    stuff = [{**category, "isthing": 0} for category in CATEGORIES]
    dataset = write_dataset(tmp_path / "data", (0,), stuff)
    spec = write_models("good", "other", dataset=dataset, flops_size=[64, 96])
    options = ["--device", "cpu", "--runs", "7", "--no-cost", "--cache", str(tmp_path / "kept"), "--only", "good"]
    assert main(["compare", str(spec), "--output", str(tmp_path / "out"), *options]) == 0
    (job,) = no_processes
    assert (job.device, job.runs, job.costs, job.flops_size) == ("cpu", 7, False, (64, 96))
    assert job.cache == str(tmp_path / "kept")
    assert [picture.name for picture in job.pictures] == ["scene0"]
    assert read_json(tmp_path / "out")["models"][0]["qualities"]["PQ_th"] is None


def test_machine_is_that_of_the_chosen_device(tmp_path, pages, no_processes, write_models, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec = write_models("good", dataset=write_dataset(tmp_path / "data", (0,)))
    assert main(["compare", str(spec), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert read_json(tmp_path / "out")["facts"]["machine"] == device_name("cpu")


def test_evaluators_are_quiet(tmp_path, pages, no_processes, write_models, caplog):
    caplog.set_level("INFO")
    spec = write_models("good", dataset=write_dataset(tmp_path / "data", (0,)))
    assert main(["compare", str(spec), "--output", str(tmp_path / "out")]) == 0
    assert {record.name for record in caplog.records} == {"panoptic_segformer.comparison.run"}


def test_long_names_have_short_folders(tmp_path, pages, write_models, monkeypatch):
    folders = []

    def keep_folder(job, folder):
        folders.append(folder.name)
        return JobResult(error="no")

    monkeypatch.setattr(run, "run_in_process", keep_folder)
    spec = write_models("x" * 300, "Réseau!", dataset=write_dataset(tmp_path / "data", (0,)))
    assert main(["compare", str(spec), "--output", str(tmp_path / "out")]) == 1
    assert folders == ["01-" + "x" * 60, "02-r-seau"]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"title": 3}, [], "'title' must be text, got 3"),
        ({"dataset": "no_such"}, [], "dataset 'no_such' is not registered"),
        ({}, ["--only", "god"], "no model 'god', did you mean 'good'"),
        pytest.param(
            {},
            ["--device", "cuda"],
            "no GPU that it can use",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
)
def test_wrong_input_gives_one_plain_message(tmp_path, no_processes, write_models, capsys, changes, options, message):
    spec = write_models("good", **{"dataset": write_dataset(tmp_path / "data"), **changes})
    assert main(["compare", str(spec), "--output", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("panseg compare: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not no_processes


@pytest.mark.slow
def test_our_model_from_its_config_and_checkpoint(tiny_config, tmp_path, pages, config_dir):
    """Weights as the trainer writes them; costs as `panseg analyze` counts them."""
    model = build_model(tiny_config())
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    ours = {
        "name": "ours",
        "config": str(config_dir / "synthetic/panoptic_segformer_lite0.yaml"),
        "weights": "weights.pth",
        # Random weights are sure of nothing.
        "opts": [*tiny_overrides(tmp_path), "MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD", "0.0"],
    }
    dataset = {
        "images": "synthetic_scenes/val/images",
        "panoptic_json": "synthetic_scenes/val/panoptic.json",
        "panoptic_png": "synthetic_scenes/val/panoptic_png",
    }
    spec = write_spec(tmp_path, dataset=dataset, models=[ours], flops_size=[96, 128])
    assert main(["compare", str(spec), "--output", str(tmp_path / "out"), "--device", "cpu", "--runs", "1"]) == 0
    (result,) = read_json(tmp_path / "out")["models"]
    assert result["error"] == ""
    assert result["costs"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert result["costs"]["flops"] == count_flops(model.eval(), (96, 128)).total
    assert 0 <= result["qualities"]["PQ"] < 50
    assert "AP" in result["qualities"]
    assert len(result["picture_qualities"]) == 2
    number = len(model.state_dict())
    assert result["facts"]["fit of the weights"] == f"{number} of the model's {number} tensors filled"


@pytest.mark.slow
def test_clashing_projects_in_one_comparison(tmp_path, pages, capsys):
    """Both register a meta-architecture of the same name, which is ours too; a third project crashes."""
    clash = {"registered": "PanopticSegFormer"}
    seeing = write_project(tmp_path, "seeing", **clash) | {
        "note": "sees all",
        "published": {"PQ": 50.1, "source": "a paper"},
    }
    blind = write_project(tmp_path, "blind", sees_person=False, dataset=SEPARATED, **clash)
    crashing = write_project(tmp_path, "crashing", in_forward="os.abort()", **clash)
    spec = write_spec(tmp_path, dataset=write_dataset(tmp_path / "data"), models=[seeing, crashing, blind])
    arguments = ["compare", str(spec), "--output", str(tmp_path / "out"), "--device", "cpu", "--runs", "2"]

    assert main(arguments) == 1
    first, failed, second = read_json(tmp_path / "out")["models"]
    overlap = (1 + person_overlap(4)) / 2
    assert first["qualities"]["PQ_th"] == pytest.approx(100 * overlap)
    # The grass reaches over the person, the sky is right.
    assert second["qualities"]["PQ_th"] == 0
    assert second["qualities"]["PQ_st"] == pytest.approx(50)
    assert first["qualities"]["AP"] > 0
    assert "AP" not in second["qualities"]
    assert first["picture_qualities"]["scene0"] == pytest.approx(100)
    assert first["costs"]["parameters"] == 2
    assert 0 < first["costs"]["latency_ms"] <= first["costs"]["latency_p90_ms"]
    assert "peak_memory" in first["costs"] or "peak memory" in first["facts"]
    assert first["costs"]["flops"] == 1
    assert "SIGABRT" in failed["error"]
    assert not failed["qualities"]

    captured = capsys.readouterr()
    assert captured.out.split("\n\npage")[0] in (tmp_path / "out/comparison.md").read_text()
    header = captured.out.splitlines()[0]
    assert "published PQ" in header
    assert "| published by" in header
    assert "crashing failed: the process was killed by SIGABRT" in captured.err

    shown = pages[0]
    picture = shown.comparison.pictures[0]
    assert len(shown.prediction_of("seeing", picture).segments) == 3
    assert len(shown.prediction_of("blind", picture).segments) == 2
    assert {segment["category_id"] for segment in shown.truth_of(picture).segments} == {1, 187, 193}
    assert [category.id for category in shown.comparison.categories][:3] == [1, 187, 193]

    # Everything is in the cache now, so that a model is not called again.
    calls = count_calls(seeing)
    assert main([*arguments, "--only", "seeing"]) == 0
    assert count_calls(seeing) == calls
    (again,) = read_json(tmp_path / "out")["models"]
    assert again == first
