"""The commands and the code of docs/evaluation.md run as they stand there, in a folder like the checkout."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from documents import ROOT, blocks, commands, run_in_checkout

DOCUMENT = ROOT / "docs/evaluation.md"
SHORT = {
    ("panseg", "demo"): ["--opts", "INPUT.MIN_SIZE_TEST", "64"],
    ("panseg", "evaluate"): ["--workers", "1"],
    ("python", "benchmarks/panoptic_quality.py"): ["--pictures", "2", "--runs", "1"],
}


def test_document_has_both_verbs_and_the_benchmark() -> None:
    assert {tuple(shlex.split(command)[:2]) for command in commands(DOCUMENT)} == set(SHORT)


@pytest.mark.slow
def test_commands_run_as_pasted(checkout, demo_weights) -> None:
    (checkout / "benchmarks").symlink_to(ROOT / "benchmarks")
    said = []
    for command in commands(DOCUMENT):
        words = shlex.split(command)
        said.append(run_in_checkout([*words, *SHORT[tuple(words[:2])]], checkout).stdout)
    report = checkout / "output/evaluation"
    assert "<svg" in (report / "index.html").read_text()
    content = json.loads((report / "evaluation.json").read_text())
    assert content["facts"]["pictures"] == "2"
    assert "| boundary" in said[1]
    assert said[2].count("times faster") == 2


@pytest.mark.parametrize("code", blocks(DOCUMENT, "python"))
def test_python_code_runs_as_pasted(code: str, tmp_path) -> None:
    done = run_in_checkout([sys.executable, "-c", code], tmp_path)
    # The grass is found with IoU 2 / 3, the cat with 2 / 3 as well: void does not count.
    assert json.loads(done.stdout.replace("'", '"'))["PQ"] == pytest.approx(200 / 3)
