"""Every command and code block of docs/predict.md runs as it stands there, in a folder that looks like the checkout."""

from __future__ import annotations

import shlex
import sys
from fractions import Fraction

import numpy as np
import pytest

from documents import ROOT, blocks, broken_links, commands, run_in_checkout
from panoptic_segformer.inference.result import DRAWING_STYLES

DOCUMENT = ROOT / "docs/predict.md"


@pytest.fixture(scope="module")
def walk(checkout):
    """A video in the checkout, and the scripts that measure."""
    pytest.importorskip("av", reason="needs PyAV, the extra `video`")
    from panoptic_segformer.inference.video import write_video

    with write_video(checkout / "walk.mp4", Fraction(25)) as writer:
        for level in range(0, 250, 80):
            writer.add(np.full((96, 128, 3), level, np.uint8))
    (checkout / "benchmarks").symlink_to(ROOT / "benchmarks")


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(DOCUMENT))
def test_command_runs_as_pasted(command, checkout, demo_weights, walk):
    words = shlex.split(command)
    if words[0] == "python":
        words += ["--size", "200", "300"]
    run_in_checkout(words, checkout)
    if "--output" in words:
        output = checkout / words[words.index("--output") + 1]
        assert any(path.is_file() for path in output.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks(DOCUMENT, "python"))
def test_python_code_runs_as_pasted(code, checkout, demo_weights):
    run_in_checkout([sys.executable, "-c", code], checkout)
    assert (checkout / "output/one.jpg").is_file()


def test_document_has_what_is_to_be_run():
    assert len(commands(DOCUMENT)) == 6
    assert len(blocks(DOCUMENT, "python")) == 1


def test_document_names_every_style():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [style for style in DRAWING_STYLES if f"`{style}`" not in text] == []


def test_links_lead_somewhere():
    assert broken_links(DOCUMENT) == []
