"""Every command of docs/test_time_augmentation.md runs as it stands there, on smaller pictures."""

from __future__ import annotations

import shlex
import sys

import pytest

from documents import ROOT, blocks, commands, run_in_checkout

DOCUMENT = ROOT / "docs/test_time_augmentation.md"
SHORT = ["INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu"]


def test_document_has_its_commands():
    assert len(commands(DOCUMENT)) == 4
    assert len(blocks(DOCUMENT, "python")) == 1


@pytest.fixture(scope="module")
def new_scenes(checkout) -> None:
    (code,) = blocks(DOCUMENT, "python")
    assert code.count("120") == 1
    run_in_checkout([sys.executable, "-c", code.replace("120", "2")], checkout)
    assert len(list((checkout / "datasets/new_scenes/images").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(DOCUMENT))
def test_command_runs_as_pasted(command, checkout, demo_weights, new_scenes):
    done = run_in_checkout(shlex.split(command) + SHORT, checkout)
    if command.startswith("panseg demo"):
        assert len(list((checkout / "output/augmented").glob("*.jpg"))) == 2
    else:
        assert "PQ_th" in done.stdout + done.stderr
