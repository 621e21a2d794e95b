"""train_net.py as a user runs it: train, resume, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser

from panoptic_segformer import load_config
from panoptic_segformer.training.trainer import PanopticTrainer
from tiny import import_train_net, tiny_overrides


@pytest.fixture
def train_net(tiny_config, tmp_path, config_dir):
    """Function that runs train_net.py's main with arguments, on the tiny model and scenes."""
    module = import_train_net()

    def run(*words: str):
        config = str(config_dir / "synthetic/panoptic_segformer_lite0.yaml")
        return module.main(
            default_argument_parser().parse_args(["--config-file", config, *words, *tiny_overrides(tmp_path)])
        )

    return run


def read_metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_training_resumes_and_evaluates(train_net, tmp_path):
    output = tmp_path / "output"
    results = train_net()
    assert {"panoptic_seg", "segm", "bbox", "sem_seg"} <= set(results)
    assert {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"} <= set(results["panoptic_seg"])
    metrics = read_metrics(output)
    assert any("loss_mask_thing_final" in line for line in metrics)
    assert any("panoptic_seg/PQ" in line for line in metrics)
    assert list(output.glob("events.out.tfevents*"))
    assert torch.load(output / "model_final.pth")["iteration"] == 2

    again = train_net("--resume")  # nothing left to train
    assert again["panoptic_seg"]["PQ"] == pytest.approx(results["panoptic_seg"]["PQ"])
    runs = json.loads((output / "run.json").read_text())["runs"]
    assert [run["is_resumed"] for run in runs] == [False, True]
    assert len(read_metrics(output)) == len(metrics)  # the last evaluation is there once
    evaluated = train_net("--eval-only", "--resume")
    assert evaluated["panoptic_seg"]["PQ"] == pytest.approx(results["panoptic_seg"]["PQ"])


def test_missing_config_is_named():
    with pytest.raises(FileNotFoundError, match="no/such.yaml does not exist"):
        load_config("no/such.yaml")


def test_batch_that_does_not_divide_is_explained(tiny_config):
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 2, which 8 GPUs.*REFERENCE_WORLD_SIZE to 0"):
        PanopticTrainer(tiny_config("SOLVER.REFERENCE_WORLD_SIZE", "8"))


def test_yaml_that_runs_code_is_refused(tmp_path):
    path = tmp_path / "malicious.yaml"
    path.write_text("MODEL:\n  WEIGHTS: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match="malicious.yaml .* is not valid"):
        load_config(path)


def test_unknown_key_is_named(tiny_config):
    with pytest.raises(ValueError, match="MODEL.NO_SUCH_KEY"):
        tiny_config("MODEL.NO_SUCH_KEY", "1")
