"""Every command of docs/predict_many.md runs as it stands there, in a folder that looks like the checkout."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from documents import ROOT, blocks, broken_links, commands, run_in_checkout

DOCUMENT = ROOT / "docs/predict_many.md"
RUN = [command for command in commands(DOCUMENT) if not command.startswith("pip ")]


@pytest.mark.slow
def test_commands_run_as_pasted(checkout, demo_weights):
    """One after the other: the later ones read what the first wrote."""
    for command in RUN:
        words = shlex.split(command)
        if "--workers" in words:
            pytest.importorskip("ray.data", reason="predicting by several workers needs Ray, the extra `ray`")
        run_in_checkout(words, checkout)
    plain, by_ray = (
        json.loads((checkout / f"output/{name}/predictions.json").read_text()) for name in ("many", "many_ray")
    )
    assert plain == by_ray
    assert len(plain["images"]) == 2
    assert (checkout / "output/many_evaluation/evaluation.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks(DOCUMENT, "python"))
def test_python_code_runs_as_pasted(code, checkout):
    run = run_in_checkout([sys.executable, "-c", code], checkout)
    assert run.stdout.startswith("1000000 ")


def test_document_has_what_is_to_be_run():
    assert [command.split()[1] for command in RUN] == ["predict-many", "predict-many", "evaluate"]
    assert len(blocks(DOCUMENT, "python")) == 1


def test_links_lead_somewhere():
    assert broken_links(DOCUMENT) == []
