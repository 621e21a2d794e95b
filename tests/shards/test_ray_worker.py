"""What a worker of Ray does with a shard; Ray itself is not needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from panoptic_segformer.cli import main
from panoptic_segformer.shards import ray_workers
from panoptic_segformer.shards.places import Places
from panoptic_segformer.shards.predicting import Job
from panoptic_segformer.shards.ray_workers import MOST_ATTEMPTS


@pytest.fixture
def job(tmp_path, monkeypatch) -> Job:
    monkeypatch.chdir(tmp_path)
    places = Places(tmp_path)
    places.forget_attempts()
    return Job(places, "config.yaml", "weights.pth", ())


class FakePredictor:
    """In place of ShardPredictor."""

    error: BaseException | None = None
    built = 0

    def __init__(self, job):
        type(self).built += 1

    def __call__(self, number):
        if self.error:
            raise self.error


@pytest.fixture
def predictor(monkeypatch) -> type[FakePredictor]:
    fake = type("Fake", (FakePredictor,), {})
    monkeypatch.setattr(ray_workers, "ShardPredictor", fake)
    return fake


def outcome(job: Job, *numbers: int, folder: str | Path = ".") -> list[dict]:
    worker = ray_workers._Worker(job, str(folder))
    return [worker({"shard": [number]}) for number in numbers]


def test_model_is_built_once_per_worker(job, predictor, tmp_path):
    (tmp_path / "folder").mkdir()
    expected = [{"shard": [number], "is_finished": [True], "error": [""]} for number in (3, 5)]
    assert outcome(job, 3, 5, folder=tmp_path / "folder") == expected
    assert predictor.built == 1
    assert os.getcwd() == str(tmp_path / "folder")


@pytest.mark.parametrize(("error", "words"), [(OSError("disk is full"), "disk is full"), (KeyError(), "KeyError")])
def test_error_is_told_and_not_tried_again_by_ray(job, predictor, error, words):
    predictor.error = error
    assert outcome(job, 3)[0]["error"] == [words]


def test_shard_that_kills_its_workers_is_given_up_and_others_are_not(job, predictor):
    predictor.error = SystemExit()  # It passes as a killed process would: nothing is returned.
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(SystemExit):
            outcome(job, 3)
    assert outcome(job, 3) == [{"shard": [3], "is_finished": [False], "error": [""]}]
    predictor.error = None
    assert outcome(job, 4)[0]["is_finished"] == [True]
    job.places.forget_attempts()  # As the next run does.
    assert outcome(job, 3)[0]["is_finished"] == [True]


def test_shard_without_a_survivor_is_named_and_nothing_is_joined(words, tmp_path, capsys, monkeypatch):
    def survivors(job, numbers, workers, uses_gpu, address):
        assert (workers, uses_gpu, address) == (2, False, None)
        for number in (0, 2, 3):
            job.places.shard(number).mkdir()
            yield number

    monkeypatch.setattr(ray_workers, "predict_with_ray", survivors)
    assert main(words(tmp_path / "out", "--workers", "2")) == 1
    assert "1 of 4 shards are missing, first shard_000001" in capsys.readouterr().err
    assert not (tmp_path / "out/predictions.json").exists()


def test_ray_that_is_not_installed_is_asked_for(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(words(tmp_path / "out", "--workers", "2")) == 2
    assert ".[ray]" in capsys.readouterr().err
