"""The loader of a training: its order and augmentation, broken pictures, and processes that die."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog

from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.data.loading import MOST_TRIES, build_training_loader
from panoptic_segformer.data.mapper import PanopticDatasetMapper
from tiny import forget_scenes

SEED = 5


@pytest.fixture
def loader(tiny_config):
    """Function that gives the loader of a config with overrides."""

    def build(*overrides: str, mapper=None, seed: int = SEED):
        cfg = tiny_config("DATALOADER.NUM_WORKERS", "0", *overrides)
        register_datasets(cfg)
        return build_training_loader(cfg, mapper or PanopticDatasetMapper(cfg, is_train=True), seed)

    return build


def take(loader, number: int) -> list[tuple[str, torch.Tensor]]:
    batches = itertools.islice(iter(loader), number)
    return [(example["image_id"], example["image"]) for batch in batches for example in batch]


def assert_equal(first, second) -> None:
    assert [image_id for image_id, _ in first] == [image_id for image_id, _ in second]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(first, second, strict=True))


@pytest.mark.parametrize("overrides", [("DATALOADER.NUM_WORKERS", "2"), ("DATALOADER.NUM_WORKERS", "1")])
def test_pictures_do_not_depend_on_the_number_of_processes(loader, overrides) -> None:
    assert_equal(take(loader(), 4), take(loader(*overrides), 4))


def test_pictures_depend_on_the_seed(loader) -> None:
    pairs = zip(take(loader(), 4), take(loader(seed=SEED + 1), 4), strict=True)
    assert not all(torch.equal(one, other) for (_, one), (_, other) in pairs)


def test_loader_starts_anywhere(loader) -> None:
    whole, later = take(loader(), 5), loader()
    later.start = 3
    assert_equal(take(later, 2), whole[6:])


@pytest.fixture
def fragile_mapper(tiny_config):
    """Function that gives a mapper which fails on the pictures of some files."""

    def build(is_broken):
        cfg = tiny_config()
        register_datasets(cfg)
        mapper = PanopticDatasetMapper(cfg, is_train=True)

        def map_or_fail(entry):
            if is_broken(Path(entry["file_name"]).name):
                raise ValueError(f"picture {entry['file_name']} cannot be read (cut off)")
            return mapper(entry)

        return map_or_fail

    return build


@pytest.mark.parametrize("workers", ["0", "2"])
def test_broken_picture_stops_the_training_and_is_named(loader, fragile_mapper, workers: str) -> None:
    broken = "000001.jpg"
    batches = loader("DATALOADER.NUM_WORKERS", workers, mapper=fragile_mapper(lambda name: name == broken))
    with pytest.raises(ValueError, match=rf"{broken} cannot be read \(cut off\)"):
        take(batches, 4)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_broken_picture_is_left_out_and_said_once(loader, tiny_config, fragile_mapper, caplog, workers: str) -> None:
    register_datasets(tiny_config())
    entry = DatasetCatalog.get("synthetic_train")[1]
    broken = Path(entry["file_name"]).name
    options = ("DATALOADER.BROKEN_PICTURES", "skip", "DATALOADER.NUM_WORKERS", workers)
    batches = loader(*options, mapper=fragile_mapper(lambda name: name == broken))
    with caplog.at_level(logging.WARNING):
        examples = take(batches, 10)
    assert len(examples) == 20
    assert entry["image_id"] not in {image_id for image_id, _ in examples}
    assert [broken in record.message for record in caplog.records if "left out broken" in record.message] == [True]
    assert batches.num_broken == 1
    later = loader(*options, mapper=fragile_mapper(lambda name: name == broken))
    later.start = 6
    assert_equal(take(later, 4), examples[12:])


def test_missing_file_is_left_out_as_well(loader, scenes_root, tmp_path, monkeypatch, caplog) -> None:
    shutil.copytree(scenes_root, tmp_path / "datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    forget_scenes()
    (tmp_path / "datasets/synthetic_scenes/train/images/000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 picture files are missing, first .*000002.jpg"):
        loader()
    with caplog.at_level(logging.WARNING):
        assert len(take(loader("DATALOADER.BROKEN_PICTURES", "skip"), 8)) == 16
    assert sum("left out broken picture" in record.message for record in caplog.records) == 1


def test_folder_that_is_gone_ends_the_skipping(loader, fragile_mapper) -> None:
    batches = loader("DATALOADER.BROKEN_PICTURES", "skip", mapper=fragile_mapper(lambda name: True))
    with pytest.raises(ValueError, match=f"{MOST_TRIES} pictures one after the other are broken.*panseg validate"):
        take(batches, 1)


def test_bug_is_not_taken_for_a_broken_picture(loader) -> None:
    def wrong(entry):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        take(loader("DATALOADER.BROKEN_PICTURES", "skip", mapper=wrong), 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("DATALOADER.BROKEN_PICTURES", "ignore"), "BROKEN_PICTURES is 'ignore': set it to 'stop' or 'skip'"),
        (("DATALOADER.SAMPLER_TRAIN", "Sampler"), "Sampler"),
    ],
)
def test_unknown_value_is_named(loader, overrides, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(*overrides)


class Deadly:
    """Kills the loader process that maps a certain picture, or lets it sleep for ever."""

    def __init__(self, mapper, deadly: str, action) -> None:
        self.mapper, self.deadly, self.action = mapper, deadly, action

    def __call__(self, entry):
        if Path(entry["file_name"]).name == self.deadly:
            self.action()
        return self.mapper(entry)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"worker .*(killed by signal|exited unexpectedly)"),
        (signal.pause, "timed out after 3 seconds"),
    ],
    ids=["killed", "stuck"],
)
def test_dead_loader_process_stops_the_training(loader, tiny_config, action, message: str) -> None:
    cfg = tiny_config()
    register_datasets(cfg)
    deadly = Path(DatasetCatalog.get("synthetic_train")[2]["file_name"]).name
    mapper = Deadly(PanopticDatasetMapper(cfg, is_train=True), deadly, action)
    options = ("DATALOADER.NUM_WORKERS", "2", "DATALOADER.TIMEOUT", "3")
    with pytest.raises(RuntimeError, match=message):
        take(loader(*options, mapper=mapper), 10)


def test_ctrl_c_is_the_trainings_and_ends_no_loader_process(loader) -> None:
    batches = iter(loader("DATALOADER.NUM_WORKERS", "1"))
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)
    assert len(list(itertools.islice(batches, 10))) == 10
    assert worker.is_alive()
