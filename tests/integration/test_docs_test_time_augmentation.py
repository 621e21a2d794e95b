"""Every command of docs/test_time_augmentation.md runs as it stands there, on smaller pictures."""

from __future__ import annotations

import shlex

import pytest

from documents import ROOT, commands, run_in_checkout

DOCUMENT = ROOT / "docs/test_time_augmentation.md"
SHORT = ["INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu"]


def test_document_has_its_commands():
    assert len(commands(DOCUMENT)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(DOCUMENT))
def test_command_runs_as_pasted(command, checkout, demo_weights):
    done = run_in_checkout(shlex.split(command) + SHORT, checkout)
    if command.startswith("panseg demo"):
        assert len(list((checkout / "output/augmented").glob("*.jpg"))) == 2
    else:
        assert "PQ_th" in done.stdout + done.stderr
