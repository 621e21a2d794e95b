"""Two processes that torchrun starts on a CPU train and evaluate as one process does."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from documents import ROOT
from panoptic_segformer.data.synthetic import write_scenes
from tiny import tiny_overrides

# Each process draws its own random numbers, so nothing may be random but the initial weights, which are the first's.
FIXED = ["SEED", "3", "INPUT.RANDOM_FLIP", "none", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "2"]
# Steps in proportion to the gradients: Adam would enlarge the rounding of the smallest.
FIXED += ["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.1", "SOLVER.CHECKPOINT_PERIOD", "1"]
# Weights after two steps find something only where little is asked for.
LENIENT = ["MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD", "0.0"]
ONE = [sys.executable]
TWO = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2"]
DETECTRON2 = ["--num-gpus", "2", "--dist-url", "auto"]


def run(launcher: list[str], words: list[str], datasets: Path) -> str:
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    config = str(ROOT / "configs/synthetic/panoptic_segformer_lite0.yaml")
    command = [*launcher, str(ROOT / "train_net.py"), "--config-file", config, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def figures(output: str) -> dict[str, dict[str, float]]:
    """Return what Detectron2 prints of an evaluation, by task."""
    lines = re.findall(r"copypaste: (.*)", output)
    found = {}
    for title, names, values in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        numbers = [float(value) for value in values.split(",")]
        found[title] = {n: v for n, v in zip(names.split(","), numbers, strict=True) if not math.isnan(v)}
    return found


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    """Three validation pictures: the ranks' shares differ."""
    root = tmp_path_factory.mktemp("torchrun")
    write_scenes(root / "synthetic_scenes/train", 4, seed=1, size=(96, 128))
    write_scenes(root / "synthetic_scenes/val", 3, seed=2, size=(96, 128))
    return root


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(datasets, tmp_path):
    weights = {}
    for name, launcher in (("one", ONE), ("two", TWO)):
        run(launcher, [*tiny_overrides(tmp_path / name), *FIXED, "DATASETS.TEST", "()"], datasets)
        weights[name] = torch.load(tmp_path / name / "output/model_final.pth")["model"]
    (record,) = json.loads((tmp_path / "two/output/run.json").read_text())["runs"]
    assert record["world_size"] == 2
    assert weights["one"].keys() == weights["two"].keys()
    for name, weight in weights["one"].items():
        assert torch.allclose(weights["two"][name], weight, rtol=1e-5, atol=1e-5), name
    before = torch.load(tmp_path / "one/output/model_0000000.pth")["model"]
    assert max((weights["one"][name] - before[name]).abs().max() for name in before) > 1e-3  # in the second step alone

    words = ["--eval-only", *tiny_overrides(tmp_path), *LENIENT]
    words += ["MODEL.WEIGHTS", str(tmp_path / "one/output/model_final.pth")]
    of_one, of_two = figures(run(ONE, words, datasets)), figures(run(TWO, words, datasets))
    of_detectron2 = figures(run(ONE, [*DETECTRON2, *words], datasets))
    assert {"Task: panoptic_seg", "Task: sem_seg", "Task: bbox", "Task: segm"} <= of_one.keys()
    assert of_one["Task: sem_seg"]["mIoU"] > 0
    assert of_two == of_one
    assert of_detectron2 == of_one
