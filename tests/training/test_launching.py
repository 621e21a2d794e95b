from __future__ import annotations

import argparse

import pytest
import torch
from torch import nn

from panoptic_segformer.training.launching import launch, parallel_model

seen = []


def keep(arguments):
    seen.append(arguments)


@pytest.fixture(autouse=True)
def forget():
    seen.clear()


@pytest.fixture
def torchrun(monkeypatch):
    """Function that makes this process look like the first of torchrun's."""

    def start(world_size: int):
        facts = {
            "TORCHELASTIC_RUN_ID": "none",
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size,
            "LOCAL_RANK": 0,
        }
        for name, value in facts.items():
            monkeypatch.setenv(name, str(value))

    return start


def arguments(**given):
    usual = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(**{**usual, **given})


def test_one_process_runs_here():
    given = arguments()
    launch(keep, given)
    assert seen == [given]


def test_one_process_of_torchrun_runs_here(torchrun):
    torchrun(1)
    given = arguments()
    launch(keep, given)
    assert seen == [given]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("given", [{"num_gpus": 8}, {"num_machines": 2}])
def test_torchrun_and_the_own_launcher_exclude_each_other(torchrun, given):
    torchrun(8)
    with pytest.raises(ValueError, match="torchrun has started 8: leave them out, and give torchrun --nproc-per-node"):
        launch(keep, arguments(**given))
    assert not seen


def test_more_processes_than_gpus_are_refused(torchrun, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--num-gpus is 8, but torch finds 2 GPUs here: give at most 2"):
        launch(keep, arguments(num_gpus=8))
    torchrun(4)
    with pytest.raises(ValueError, match="--nproc-per-node is 4, but torch finds 2 GPUs"):
        launch(keep, arguments())
    assert not seen


def test_model_of_one_process_is_itself():
    model = nn.Linear(2, 2)
    assert parallel_model(model) is model
