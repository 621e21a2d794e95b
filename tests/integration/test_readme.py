"""Every command of the README runs as it stands there, in a folder that looks like the checkout.

Trainings are shortened by overrides at the end of the line; set-up commands are not run inside the tests, but their
make targets and files are checked.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from documents import ROOT, blocks, broken_links, commands, run_in_checkout
from golden import parse_key
from panoptic_segformer import load_config

README = ROOT / "README.md"
SHORT = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
# Not run here: they set up environments, train, or are this very test run. Their own fresh-clone run is their test.
SETUP = ("make demo", "make test", "make compare", "source .venv/bin/activate", "pip install")


def save_released(path: Path, shared_dir: Path) -> None:
    """A file with the released R50's keys and shapes and random numbers."""
    lines = (shared_dir / "keys/official_r50.txt").read_text().splitlines()
    random = torch.Generator().manual_seed(0)
    keys = [parse_key(line) for line in lines if line]
    # Positive, as variances must be.
    state_dict = {key: torch.rand(shape, generator=random) * 0.02 for key, shape in keys}
    torch.save({"meta": {}, "state_dict": state_dict}, path)


def test_readme_has_commands():
    assert len(commands(README)) >= 8
    assert {"make demo", "make test"} <= set(commands(README))


def test_readme_is_complete():
    assert not re.findall(r"^[A-Z_]+$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("document", [README, *sorted(ROOT.glob("docs/*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    assert broken_links(document) == []


def test_set_up_commands_name_real_targets():
    makefile = (ROOT / "Makefile").read_text()
    for command in commands(README):
        if command.startswith("make "):
            assert f"\n{command.split()[1]}: " in makefile


runnable = [command for command in commands(README) if not command.startswith(SETUP)]


@pytest.mark.slow
@pytest.mark.parametrize("command", runnable)
def test_command_runs_as_pasted(command, checkout, demo_weights, request):
    if "psf://" in command:
        save_released(checkout / "panoptic_segformer_r50_2x.pth", request.getfixturevalue("shared_dir"))
    words = shlex.split(command)
    if words[0] == "python":
        words += SHORT
        if "custom/" in command:
            words += ["MODEL.WEIGHTS", ""]  # the backbone's weights are a download
    if words[:2] == ["panseg", "demo"] and "configs/coco" in command:
        words += ["--opts", "INPUT.MIN_SIZE_TEST", "96"]
    if words[:2] == ["panseg", "benchmark"]:
        words += ["--size", "64", "96", "--runs", "1"]
    if words[:2] == ["panseg", "compare"]:
        words += ["--only", "Panoptic SegFormer (make demo)", "--runs", "1"]  # the only one whose weights are there
    if words[:2] == ["panseg", "quickstart"]:
        pytest.skip("is `make demo`")
    if "configs/coco" in command and words[0] == "python":
        load_config(ROOT / words[words.index("--config-file") + 1])
        pytest.skip("needs the COCO dataset; its config loads")
    run_in_checkout(words, checkout)


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks(README, "python"))
def test_python_code_runs_as_pasted(code, checkout, demo_weights):
    run_in_checkout([sys.executable, "-c", code], checkout)
