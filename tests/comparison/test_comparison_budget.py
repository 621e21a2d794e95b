"""Equal-budget trainings: what is made equal, what is refused, what is kept of a training."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_segformer.comparison import equal_training
from panoptic_segformer.comparison.budget import SHARED_KEYS, Budget, Setup, equal_config, find_differences
from panoptic_segformer.comparison.curves import plot_curves
from panoptic_segformer.comparison.equal_training import Point, Training, train_equally
from tiny import forget_scenes, tiny_overrides

ROOT = Path(__file__).resolve().parents[2]
SETUP = Setup("yaml", "cpu", 50, 30, 12.5, ((96, 128), (96, 128)), {})


@pytest.fixture
def first(config_dir) -> Path:
    return config_dir / "synthetic/panoptic_segformer_lite0.yaml"


@pytest.fixture
def joint(first, tmp_path) -> Path:
    """A second model: other queries, and a recipe of its own."""
    path = tmp_path / "joint.yaml"
    path.write_text(
        f"_BASE_: {first}\n"
        "MODEL: {PIXEL_MEAN: [1.0, 2.0, 3.0], PANOPTIC_SEGFORMER: {QUERIES: joint}, TIMM: {NAME: resnet18}}\n"
        "INPUT: {MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 32, CROP: {ENABLED: True}, RANDOM_FLIP: none}\n"
        "SOLVER: {BASE_LR: 0.003, OPTIMIZER: SGD, WARMUP_ITERS: 900, STEPS: [20, 30], IMS_PER_BATCH: 16}\n"
        "DATASETS: {TRAIN: [elsewhere]}\n"
    )
    return path


def key_values(cfg) -> dict[str, object]:
    """The values of all keys that are shared, by dotted key."""
    values = {}
    for key in SHARED_KEYS:
        node = cfg
        for name in key.split("."):
            node = node[name]
        values[key] = node
    return values


def test_terms_are_the_first_configs_and_the_rest_is_the_models_own(first, joint, tmp_path):
    budget = Budget(iterations=200, batch=3, size=(96, 160), device="cpu", seed=7)
    one, other = (equal_config(path, first, budget, tmp_path / "out") for path in (first, joint))
    assert key_values(one) == key_values(other)
    assert (other.SOLVER.MAX_ITER, other.SOLVER.IMS_PER_BATCH, other.SEED) == (200, 3, 7)
    assert (other.INPUT.MIN_SIZE_TRAIN, other.INPUT.MAX_SIZE_TRAIN) == ((96,), 160)
    assert (other.INPUT.MIN_SIZE_TEST, other.INPUT.MAX_SIZE_TEST) == (96, 160)
    assert not other.INPUT.CROP.ENABLED
    assert other.MODEL.TIMM.NAME == "tf_efficientnet_lite0"
    assert other.DATASETS.REGISTER.synthetic_val.IMAGES == "synthetic_scenes/val/images"
    assert other.TEST.EVAL_PERIOD == 20
    assert other.SOLVER.STEPS == one.SOLVER.STEPS == (160,)
    assert (one.SOLVER.WARMUP_ITERS, other.SOLVER.WARMUP_ITERS) == (20, 20)
    assert (one.SOLVER.BASE_LR, other.SOLVER.BASE_LR) == (0.001, 0.003)
    assert (other.SOLVER.OPTIMIZER, other.INPUT.RANDOM_FLIP) == ("SGD", "none")
    assert other.MODEL.PANOPTIC_SEGFORMER.QUERIES == "joint"


def test_what_a_budget_leaves_open_is_the_first_configs(first, joint, tmp_path):
    cfg = equal_config(joint, first, Budget(opts=("SOLVER.STEPS", "()")), tmp_path)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (700, 4)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((192,), 256)
    assert cfg.TEST.EVAL_PERIOD == 70
    assert cfg.SOLVER.STEPS == ()  # A schedule without steps stays one.


@pytest.mark.parametrize("figure", [{"iterations": 0}, {"batch": -1}, {"size": (0, 64)}, {"threads": 0}])
def test_figures_below_one_are_refused(figure):
    with pytest.raises(ValueError, match=f"the budget's {next(iter(figure))} is .*: it must be at least 1"):
        Budget(**figure)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone_parameters": 31}, "its backbone has 31 parameters, the first model's 30"),
        ({"backbone_weights": 12.6}, "its backbone starts from other weights"),
        ({"backbone_weights": None}, "its backbone starts from other weights"),
        ({"input_sizes": ((96, 128), (64, 96))}, r"have \(height, width\) \(\(96, 128\), \(64, 96\)\)"),
    ],
)
def test_differences_are_found(change, message):
    (difference,) = find_differences(dataclasses.replace(SETUP, **change), SETUP)
    assert re.search(message, difference)


def test_equal_setups_have_no_differences():
    others = dataclasses.replace(SETUP, parameters=99, config="other", backbone_weights=12.5 * (1 + 1e-9))
    assert find_differences(others, SETUP) == []
    random = dataclasses.replace(SETUP, backbone_weights=None)
    assert find_differences(random, random) == []


@pytest.fixture
def here(monkeypatch, scenes_root):
    """What would run in processes of its own runs in this one, on the small scenes."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))
    monkeypatch.setattr(equal_training, "_in_own_process", lambda function, job: function(job))
    yield
    forget_scenes()


@pytest.mark.slow
def test_a_training_is_measured_kept_and_not_repeated(here, first, tmp_path, monkeypatch):
    budget = Budget(iterations=3, eval_period=2, size=(64, 96), opts=tuple(tiny_overrides(tmp_path)))
    output = tmp_path / "trainings"
    (training,) = train_equally({"one": first}, budget, output)
    assert training.error == ""
    assert [point.iterations for point in training.curve] == [2, 3]
    early, late = training.curve
    assert 0 < early.seconds < late.seconds
    assert 0 < early.cpu_seconds < late.cpu_seconds
    assert {"PQ", "PQ_th", "PQ_st"} <= set(late.qualities)
    assert training.setup.input_sizes == ((64, 85), (64, 85))
    assert 0 < training.setup.backbone_parameters < training.setup.parameters
    lines = [json.loads(line) for line in (output / "one/metrics.json").read_text().splitlines()]
    evaluated = [line["panoptic_seg/PQ"] for line in lines if "panoptic_seg/PQ" in line]
    assert evaluated[-1] == late.qualities["PQ"]
    assert sorted(path.name for path in (output / "one").glob("*.pth")) == ["model_final.pth"]
    report = json.loads((output / "equal_budget.json").read_text())
    assert report["budget"]["iterations"] == 3
    assert [Point(**point) for point in report["trainings"][0]["curve"]] == list(training.curve)

    def fail(job):
        raise MemoryError("too large\nfor this machine")

    monkeypatch.setattr(equal_training, "_train", fail)
    assert train_equally({"one": first}, budget, output) == [training]
    assert train_equally({"one": first}, budget, output, only=["one"]) == [training]
    (other_terms,) = train_equally({"one": first}, dataclasses.replace(budget, seed=2), output)
    assert other_terms.error == "MemoryError: too large"
    assert not other_terms.curve
    assert not (output / "one/metrics.json").exists()
    report = json.loads((output / "equal_budget.json").read_text())
    assert report["trainings"][0]["error"] == "MemoryError: too large"


@pytest.fixture
def without_models(monkeypatch):
    """Setups and trainings without models: what becomes of a config depends on its name."""
    setups = {"narrow": dataclasses.replace(SETUP, backbone_parameters=7)}
    point = Point(3, 1.5, 2.5, {"PQ": 40.0})

    def inspect_setup(config_file):
        if config_file.stem == "missing":
            raise FileNotFoundError("no such file\nat all")
        return setups.get(config_file.stem, SETUP)

    def in_own_process(function, argument):
        if function is equal_training._inspect_all:
            return function(argument)
        job = argument
        if job.config_file.stem == "crashing":
            raise RuntimeError("out of memory")
        job.output_dir.mkdir(parents=True)
        (job.output_dir / "config.yaml").write_text(SETUP.config)
        (job.output_dir / "model_final.pth").touch()
        return [point], "a processor"

    monkeypatch.setattr(equal_training, "_in_own_process", in_own_process)
    monkeypatch.setattr(equal_training._Job, "config", lambda job: job.config_file)
    monkeypatch.setattr(equal_training, "inspect_setup", inspect_setup)


def test_models_that_end_the_process_are_refused(monkeypatch, tmp_path):
    def end(function, jobs):
        raise RuntimeError("its process ended without a result, perhaps for want of memory")

    monkeypatch.setattr(equal_training, "_in_own_process", end)
    with pytest.raises(ValueError, match="the models can't be built: its process ended without a result"):
        train_equally({"first": Path("first.yaml")}, Budget(), tmp_path)


def test_what_can_not_be_equal_is_refused_before_anything_is_trained(without_models, tmp_path):
    files = {name: Path(f"{name}.yaml") for name in ("first", "missing", "narrow", "other")}
    with pytest.raises(ValueError, match="on equal terms") as caught:
        train_equally(files, Budget(), tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert lines[0] == "- missing: FileNotFoundError: no such file"
    assert lines[1].startswith("- narrow: its backbone has 7 parameters")
    assert len(lines) == 2
    assert not list(tmp_path.iterdir())


def test_one_that_fails_does_not_stop_the_others(without_models, tmp_path):
    files = {name: Path(f"{name}.yaml") for name in ("first", "crashing", "other")}
    trainings = train_equally(files, Budget(), tmp_path)
    assert [training.error for training in trainings] == ["", "RuntimeError: out of memory", ""]
    assert trainings[2].curve[0].qualities == {"PQ": 40.0}


def test_only_some_are_trained_and_all_complete_ones_reported(without_models, tmp_path):
    files = {name: Path(f"{name}.yaml") for name in ("first", "second", "third")}
    names = [t.name for t in train_equally(files, Budget(), tmp_path, only=["second"])]
    assert names == ["second"]
    names = [t.name for t in train_equally(files, Budget(), tmp_path, only=["first"])]
    assert names == ["first", "second"]
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize("name", ["a/b", "..", " "])
def test_names_that_are_no_folders_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="can't be the name of a folder"):
        train_equally({name: Path("first.yaml")}, Budget(), tmp_path)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no model 'three': choose among one, two"):
        train_equally({"one": Path("a"), "two": Path("b")}, Budget(), tmp_path, only=["three"])
    with pytest.raises(ValueError, match="no config"):
        train_equally({}, Budget(), tmp_path)


@pytest.mark.slow
def test_a_process_that_dies_is_an_error():
    with pytest.raises(RuntimeError, match="ended without a result"):
        equal_training._in_own_process(os._exit, 3)


def test_curves_are_drawn_of_what_was_trained(tmp_path):
    curve = [Point(100, 60.0, 110.0, {"PQ": 10.0}), Point(200, 120.0, 220.0, {"PQ": 30.0})]
    trainings = [Training(name, "", SETUP, curve, 2, "a processor") for name in ("one", "two")]
    trainings.append(Training("broken", "", SETUP, (), 2, "", "out of memory"))
    path = tmp_path / "curves.svg"
    plot_curves(trainings, path)
    text = path.read_text()
    assert all(label in text for label in ("<!-- one -->", "<!-- two -->", "minutes of processor time", "PQ"))
    assert "broken" not in text


def test_the_script_says_at_once_that_its_output_cannot_be_written(first, tmp_path, capsys):
    script = runpy.run_path(str(ROOT / "benchmarks/equal_budget.py"))
    (tmp_path / "file").write_text("")
    assert script["main"](["--configs", str(first), "--output", str(tmp_path / "file/folder")]) == 2
    assert "file/folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_trains_models_in_processes_of_their_own(first, scenes_root, tmp_path):
    """The same model twice learns the same, so nothing of one training reaches the other."""
    output = tmp_path / "trainings"
    words = ["--configs", str(first), str(first), "--names", "one", "two", "--iterations", "2", "--size", "64", "96"]
    words += ["--threads", "1", "--output", str(output), "--opts", *tiny_overrides(tmp_path)]
    done = subprocess.run(
        [sys.executable, "benchmarks/equal_budget.py", *words],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(scenes_root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "| model   |" in done.stdout
    assert (output / "equal_budget.png").is_file()
    losses = []
    for name in ("one", "two"):
        lines = (output / name / "metrics.json").read_text().splitlines()
        losses += [json.loads(line)["total_loss"] for line in lines if "total_loss" in line]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, two = json.loads((output / "equal_budget.json").read_text())["trainings"]
    assert one["setup"] == two["setup"]
    assert [point["qualities"] for point in one["curve"]] == [point["qualities"] for point in two["curve"]]
