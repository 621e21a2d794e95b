"""What `panseg benchmark-data` says is measured on the loader and steps of a training."""

from __future__ import annotations

import time

import pytest

from panoptic_segformer.cli import main
from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.data.mapper import PanopticDatasetMapper
from panoptic_segformer.data.throughput import measure_rates, measure_stages, measure_waiting
from tiny import tiny_overrides

DELAY = 0.15


@pytest.fixture
def slow_config(tiny_config, monkeypatch):
    """Config whose pictures take a while to decode."""
    decode = PanopticDatasetMapper.decode

    def wait_and_decode(self, entry):
        time.sleep(DELAY)
        return decode(self, entry)

    monkeypatch.setattr(PanopticDatasetMapper, "decode", wait_and_decode)
    cfg = tiny_config("DATALOADER.NUM_WORKERS", "0")
    register_datasets(cfg)
    return cfg


def test_slow_decoding_is_seen_in_all_figures(slow_config) -> None:
    stages = measure_stages(slow_config, 3)
    assert 1000 * DELAY < stages["decode and check picture and segments"] < stages["all"]
    assert 0 < stages["the rest: cache, augmentation, targets"] < 1000 * DELAY
    assert stages["decode picture"] < 1000 * DELAY
    alone, two = measure_rates(slow_config, [0, 2], 3)
    assert (alone.workers, two.workers) == (0, 2)
    assert alone.pictures_per_second < 1 / DELAY
    waiting = measure_waiting(slow_config, 2)
    assert 2 * DELAY < waiting.waiting_seconds < waiting.step_seconds
    assert 0 < waiting.share < 1
    assert waiting.pictures_per_second == pytest.approx(2 / waiting.step_seconds, rel=0.5)


def test_verb_prints_the_figures(config_dir, scenes_root, tiny_config, tmp_path, capsys) -> None:
    tiny_config()  # the datasets' folder
    config = str(config_dir / "synthetic/panoptic_segformer_lite0.yaml")
    words = ["--workers", "0", "--batches", "2", "--steps", "1", "--opts", *tiny_overrides(tmp_path)]
    assert main(["benchmark-data", "--config-file", config, *words]) == 0
    said = capsys.readouterr().out
    assert "decode and check picture and segments" in said
    assert "DATALOADER.NUM_WORKERS |" in said
    assert "waiting for data is" in said


def test_missing_config_is_named(capsys) -> None:
    assert main(["benchmark-data", "--config-file", "no.yaml"]) == 2
    assert "config file no.yaml does not exist" in capsys.readouterr().err
