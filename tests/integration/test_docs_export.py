"""Every command and the code of docs/export.md run as they stand there, in a folder that looks like the checkout."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from documents import ROOT, blocks, commands, run_in_checkout

DOCUMENT = ROOT / "docs/export.md"
# One picture is enough here, and one run.
SHORT = {"panseg": ["--size", "96", "128"], "benchmarks/export.py": ["--size", "96", "128", "--runs", "1"]}

pytestmark = pytest.mark.slow


def test_document_runs_as_pasted(checkout, demo_weights):
    """Commands and code build on each other, so they are one test."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs the extra export")
    for name in ("examples", "benchmarks"):
        (checkout / name).symlink_to(ROOT / name)
    lines = commands(DOCUMENT)
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line)
        if words[0] == "pip":
            continue
        assert words[0] in ("panseg", "python")
        run_in_checkout([*words, *SHORT.get(words[1] if words[0] == "python" else words[0], [])], checkout)
    for code in blocks(DOCUMENT, "python"):
        run_in_checkout([sys.executable, "-c", code], checkout)
    written = {path.name for path in (checkout / "output/export").iterdir()}
    assert written == {"model.onnx", "model.pt2", "000001_overlay.png", "000001_panoptic.png", "000001.json"}
    assert "segments_info" in json.loads((checkout / "output/export/000001.json").read_text())
