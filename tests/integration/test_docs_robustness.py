"""Every command of docs/robustness.md runs as it stands there, with one corruption of one smaller picture."""

from __future__ import annotations

import shlex

import pytest

from documents import ROOT, commands, run_in_checkout
from panoptic_segformer.robustness.corruptions import CORRUPTIONS

pytest.importorskip("imagecorruptions", reason="needs the extra 'robustness'")

DOCUMENT = ROOT / "docs/robustness.md"
SHORT = [
    "--corruptions",
    "fog",
    "--limit",
    "1",
    "--shown",
    "1",
    "--device",
    "cpu",
    "--opts",
    "INPUT.MIN_SIZE_TEST",
    "64",
]


def test_document_has_its_commands_and_a_row_per_corruption():
    assert len(commands(DOCUMENT)) == 2
    text = DOCUMENT.read_text(encoding="utf-8")
    groups = [
        line.split("|")[1:3] for line in text.splitlines() if line.startswith(tuple(f"| {g}" for g in CORRUPTIONS))
    ]
    assert [(group.strip(), name.strip()) for group, name in groups] == [
        (group, name) for group, names in CORRUPTIONS.items() for name in names
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(DOCUMENT))
def test_command_runs_as_pasted(command, checkout, demo_weights):
    done = run_in_checkout(shlex.split(command) + SHORT, checkout)
    assert "| weather | fog" in done.stdout
    assert (checkout / "output/robustness/corruptions.jpg").is_file()
