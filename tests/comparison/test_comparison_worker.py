"""What the process of one model does, run here without a process of its own."""

from __future__ import annotations

import datetime
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison_fakes import JOINT, PERSON, SEPARATED, SIZE, count_calls, write_project
from PIL import Image

from panoptic_segformer.comparison import costs, worker
from panoptic_segformer.comparison.job import RESULT_FILE, Job, JobPicture, JobResult
from panoptic_segformer.comparison.spec import ModelSpec
from panoptic_segformer.comparison.worker import ModelRun, main
from panoptic_segformer.hashing import file_digest

# Modules and registered classes live as long as the tests' process, so that each project needs a name of its own.
NUMBERS = itertools.count()


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    """Function that writes a project and returns the job of its model on two pictures."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    pictures = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.png"
        pixels = np.random.default_rng(len(pictures)).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        pictures.append(JobPicture(str(path), name, file_digest(path)))

    def make(costs=False, model=None, **project):
        name = f"fake_project_{next(NUMBERS)}"
        entry = write_project(tmp_path, name, registered=f"Model_{name}", **project)
        lists = {key: tuple(entry[key]) for key in ("paths", "setup")}
        entry["config"] = str(Path(entry["paths"][0]) / "config.yaml")
        spec = ModelSpec(**{**entry, **lists, **(model or {})})
        return Job(spec, pictures, str(tmp_path / "cache"), "cpu", costs, runs=2)

    return make


def calls(job):
    return count_calls({"paths": job.model.paths})


def change_config(job, text):
    path = Path(job.model.config)
    path.write_text(path.read_text() + text)


def change_weights(job):
    torch.save({"model": {"head.weight": torch.full((1, 1), -2.0), "head.bias": torch.zeros(1)}}, job.model.weights)


def change_code(job):
    (package,) = Path(job.model.paths[0]).glob("fake_project_*/__init__.py")
    package.write_text(package.read_text() + "# changed\n")


def changed_picture(job):
    Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8)).save(job.pictures[0].path)
    first = replace(job.pictures[0], sha256=file_digest(job.pictures[0].path))
    return replace(job, pictures=[first, *job.pictures[1:]])


@pytest.mark.parametrize("dataset", [JOINT, SEPARATED])
def test_predictions_are_kept_under_dataset_ids(make_job, dataset):
    job = make_job(dataset=dataset)
    run = ModelRun(job)
    result = run.run()
    prediction = run.cache.read(result.keys["a"])
    assert [segment["category_id"] for segment in prediction.segments] == [187, 193, PERSON]
    assert prediction.instances[0]["category_id"] == PERSON
    assert prediction.segment_ids.shape == SIZE
    assert len(result.categories) == 133


def test_facts_say_what_ran(make_job):
    facts = ModelRun(make_job()).run().facts
    assert facts["fit of the weights"] == "2 of the model's 2 tensors filled"
    assert facts["architecture"].startswith("Model_fake_project")
    assert facts["classes"] == f"133 of {JOINT}"
    assert facts["input"] == "BGR, short side 64, long side at most 1333"
    assert facts["threads"] == str(torch.get_num_threads())


def test_second_run_neither_builds_nor_calls_the_model(make_job, monkeypatch):
    job = make_job()
    first = ModelRun(job).run()
    assert calls(job) == 2
    again = ModelRun(job)
    assert again.run() == first
    assert calls(job) == 2
    assert "model" not in vars(again)


def test_costs_are_kept_too(make_job, monkeypatch):
    monkeypatch.setattr(costs, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(costs, "peak_memory", lambda call, device: (call() and 4321, None))
    job = make_job(costs=True)
    first = ModelRun(job).run()
    done = calls(job)
    # Pictures, warm-up, timed, memory, FLOPs.
    assert done == 2 + 2 + 2 * 2 + 2 + 1
    assert first.costs == {
        "parameters": 2,
        "trainable": 2,
        "flops": 1,
        "peak_memory": 4321,
        "latency_ms": pytest.approx(first.costs["latency_p90_ms"], rel=1),
        "latency_p90_ms": first.costs["latency_p90_ms"],
    }
    assert first.facts["FLOPs"] == "multiply-adds at 64x96 (height x width)"
    assert first.facts["latency"].startswith("4 calls with one picture each (2 pictures, 2 runs)")
    assert first.facts["costs measured"] == datetime.date.today().isoformat()
    assert ModelRun(job).run() == first
    assert calls(job) == done
    ModelRun(replace(job, runs=1)).run()
    assert calls(job) > done


@pytest.mark.parametrize(
    ("change", "repeated"),
    [
        (lambda job: changed_picture(job), 1),
        (lambda job: change_config(job, "OUTPUT_DIR: elsewhere\n"), 0),
        (lambda job: change_config(job, "TEST: {DETECTIONS_PER_IMAGE: 7}\n"), 2),
        (change_weights, 2),
        (change_code, 2),
        (lambda job: replace(job, model=replace(job.model, opts=("INPUT.MIN_SIZE_TEST", 96))), 2),
        (lambda job: replace(job, model=replace(job.model, name="other", note="words")), 0),
    ],
    ids=["picture", "output folder", "config", "weights", "code", "overrides", "name"],
)
def test_what_predictions_depend_on_is_predicted_anew(make_job, change, repeated):
    job = make_job()
    ModelRun(job).run()
    changed = change(job) or job
    ModelRun(changed).run()
    assert calls(job) == 2 + repeated


def test_predictions_under_other_classes_are_predicted_anew(make_job, monkeypatch):
    """A dataset's json can change while its name, and so the config, stays the same."""
    job = make_job()
    classes = ModelRun(job).classes
    keys = ModelRun(job).run().keys
    categories = {**classes.categories, PERSON: replace(classes.categories[PERSON], name="dragon")}
    changed = replace(classes, categories=categories)
    monkeypatch.setattr(worker.ModelClasses, "of_dataset", lambda name: changed)
    assert ModelRun(job).run().keys.items().isdisjoint(keys.items())
    assert calls(job) == 4


def test_first_calls_on_each_picture_are_not_timed():
    seen = set()

    class SlowAtFirst(torch.nn.Linear):
        def forward(self, example):
            if example[0]["number"] not in seen:
                seen.add(example[0]["number"])
                time.sleep(0.2)

    inputs = [[{"number": number}] for number in range(5)]
    found, facts = costs._time_calls(SlowAtFirst(1, 1), inputs, 2, torch.device("cpu"))
    assert found["latency_p90_ms"] < 100
    assert facts["latency"] == "10 calls with one picture each (5 pictures, 2 runs) after 5 others"


def test_memory_that_cannot_be_measured_is_explained(make_job, monkeypatch):
    def fail(function, *arguments):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(costs, "in_fresh_process", fail)
    result = ModelRun(make_job(costs=True)).run()
    assert "peak_memory" not in result.costs
    assert result.facts["peak memory"] == "unknown: RuntimeError: two lines"


def test_damaged_prediction_is_made_anew(make_job):
    job = make_job()
    run = ModelRun(job)
    keys = run.run().keys
    next(run.cache.folder.rglob(f"{keys['b']}.png")).write_bytes(b"damaged")
    assert ModelRun(job).run().keys == keys
    assert calls(job) == 3
    assert run.cache.read(keys["b"]) is not None


def test_weights_that_fit_in_part_are_refused_unless_allowed(make_job):
    job = make_job()
    torch.save({"model": {"head.weight": torch.ones(1, 1), "neck.weight": torch.ones(1)}}, job.model.weights)
    allowed = replace(job, model=replace(job.model, allow_partial=True))
    result = ModelRun(allowed).run()
    assert result.facts["fit of the weights"].startswith("1 of the model's 2 tensors filled; 1 missing: head.bias")
    # What was allowed once is no excuse: the same job without the word is refused, cache or not.
    with pytest.raises(ValueError, match="1 missing: head.bias; 1 unexpected: neck.weight.*'allow_partial: true'"):
        ModelRun(job).run()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"setup": ("no_such_module:f",)}, "module no_such_module of 'setup' can't be imported.*let 'paths' name"),
        ({"setup": ("detectron2.config:get_cgf",)}, "has no function 'get_cgf', did you mean 'get_cfg'"),
        ({"setup": ("detectron2.config",)}, "must be module:function"),
        ({"setup": ()}, "does not merge: Non-existent config key: MODEL.FAKE.*let 'setup' name"),
        ({"imports": ("no_such_module",)}, "module no_such_module of 'imports' can't be imported"),
        ({"opts": ("MODEL.NO_SUCH", 1)}, "does not merge: Non-existent key: MODEL.NO_SUCH"),
        ({"opts": ("DATASETS.TEST", "()")}, "DATASETS.TEST of the config is empty"),
        ({"opts": ("DATASETS.TEST", "('coco_2017_val',)")}, "'coco_2017_val' is no panoptic dataset"),
        ({"setup": None}, "META_ARCHITECTURE is 'Model_fake_project_.*, which this project does not have"),
    ],
)
def test_wrong_model_is_said_in_plain_words(make_job, model, message):
    with pytest.raises(ValueError, match=message):
        ModelRun(make_job(model=model))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_that_is_not_there_is_said_in_plain_words(make_job):
    with pytest.raises(ValueError, match="no GPU that it can use"):
        ModelRun(replace(make_job(), device="cuda"))


def test_flops_that_cannot_be_counted_are_explained(make_job, monkeypatch):
    monkeypatch.setattr(costs, "in_fresh_process", lambda function, *arguments: 0)
    job = make_job(costs=True, in_forward='if torch.jit.is_tracing(): raise RuntimeError("no tracing")')
    result = ModelRun(job).run()
    assert "flops" not in result.costs
    assert result.facts["FLOPs"] == "unknown, the model can't be traced: RuntimeError: no tracing"


def test_main_writes_results_and_errors_in_one_line(make_job, tmp_path, capsys):
    job = make_job()
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
    assert main(str(tmp_path / "job.json")) == 0
    assert JobResult.read(tmp_path / RESULT_FILE) == ModelRun(job).run()
    assert "progress: 2 of 2 pictures" in capsys.readouterr().out

    make_job(in_forward='raise RuntimeError("two\\nlines")').write(tmp_path / "job.json")
    assert main(str(tmp_path / "job.json")) == 1
    assert JobResult.read(tmp_path / RESULT_FILE) == JobResult(error="RuntimeError: two lines")
    assert "Traceback" in capsys.readouterr().err


def test_endless_errors_are_cut(make_job, tmp_path):
    make_job(in_forward='raise RuntimeError("word " * 9999)').write(tmp_path / "job.json")
    assert main(str(tmp_path / "job.json")) == 1
    error = JobResult.read(tmp_path / RESULT_FILE).error
    assert error.startswith("RuntimeError: word word")
    assert len(error) == 1000


def test_lazy_config(make_job, tmp_path):
    job = make_job()
    (package,) = Path(job.model.paths[0]).glob("fake_project_*")
    config = tmp_path / "config.py"
    config.write_text(
        f"""
from detectron2.config import LazyCall as L, get_cfg
from detectron2.data import transforms as T
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from {package.name} import Model_{package.name} as Model, add_fake_config

def make(calls):
    cfg = get_cfg()
    add_fake_config(cfg)
    cfg.MODEL.FAKE.CALLS = calls
    return Model(cfg)

model = L(make)(calls="{job.model.paths[0]}/calls.txt")
dataloader = dict(test=dict(
    dataset=L(get_detection_dataset_dicts)(names="{JOINT}"),
    mapper=L(DatasetMapper)(is_train=False, image_format="RGB", augmentations=[
        L(T.ResizeShortestEdge)(short_edge_length=40, max_size=1333)])))
"""
    )
    job = replace(job, model=replace(job.model, config=str(config)))
    run = ModelRun(job)
    result = run.run()
    assert len(run.cache.read(result.keys["a"]).segments) == 3
    assert result.facts["input"] == "RGB, short side 40, long side at most 1333"
    assert calls(job) == 2
    ModelRun(job).run()
    assert calls(job) == 2

    lacking = tmp_path / "lacking.py"
    lacking.write_text("model = {}\n")
    with pytest.raises(ValueError, match="lacks what a comparison needs"):
        ModelRun(replace(job, model=replace(job.model, config=str(lacking))))
