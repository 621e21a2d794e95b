"""Every command of the README runs as it stands there, in a folder that looks like the checkout.

Trainings are shortened by overrides at the end of the line; set-up commands are not run inside the tests, but their
make targets and files are checked.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from golden import parse_key
from panoptic_segformer import load_config
from tiny import forget_scenes

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LITE = "configs/synthetic/panoptic_segformer_lite0.yaml"
SHORT = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
# Not run here: they set up environments, train, or are this very test run. Their own fresh-clone run is their test.
SETUP = ("make demo", "make test", "make compare", "source .venv/bin/activate", "pip install")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [
        line.split("  #")[0].strip() for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, scenes_root) -> Path:
    """Folder with the checkout's files, small scenes, and weights where `make demo` leaves them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "train_net.py"):
        (folder / name).symlink_to(ROOT / name)
    datasets = folder / "datasets"
    datasets.mkdir()
    (datasets / "synthetic_scenes").symlink_to(scenes_root / "synthetic_scenes")
    mine = datasets / "my_dataset"
    mine.mkdir()
    for split in ("train", "val"):
        scenes = scenes_root / "synthetic_scenes" / split
        (mine / split).symlink_to(scenes / "images")
        (mine / f"panoptic_{split}").symlink_to(scenes / "panoptic_png")
        (mine / f"panoptic_{split}.json").symlink_to(scenes / "panoptic.json")
    Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(folder / "street.jpg")
    return folder


@pytest.fixture(scope="module")
def demo_weights(checkout) -> None:
    """Fresh weights of the demo's model under the name that `make demo` gives the trained ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        patch.setenv("DETECTRON2_DATASETS", "datasets")
        model = build_model(load_config(LITE, ["MODEL.DEVICE", "cpu"]))
    forget_scenes()
    (checkout / "output/demo/training").mkdir(parents=True)
    torch.save({"model": model.state_dict()}, checkout / "output/demo/training/model_final.pth")


def save_released(path: Path, shared_dir: Path) -> None:
    """A file with the released R50's keys and shapes and random numbers."""
    lines = (shared_dir / "keys/official_r50.txt").read_text().splitlines()
    random = torch.Generator().manual_seed(0)
    keys = [parse_key(line) for line in lines if line]
    # Positive, as variances must be.
    state_dict = {key: torch.rand(shape, generator=random) * 0.02 for key, shape in keys}
    torch.save({"meta": {}, "state_dict": state_dict}, path)


def environment(checkout: Path) -> dict[str, str]:
    scripts = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "DETECTRON2_DATASETS": "datasets",
        "FVCORE_CACHE": str(checkout / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def test_readme_has_commands():
    assert len(commands()) >= 8
    assert {"make demo", "make test"} <= set(commands())


def test_readme_is_complete():
    assert not re.findall(r"^[A-Z_]+$", README, flags=re.MULTILINE)
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_set_up_commands_name_real_targets():
    makefile = (ROOT / "Makefile").read_text()
    for command in commands():
        if command.startswith("make "):
            assert f"\n{command.split()[1]}: " in makefile


runnable = [command for command in commands() if not command.startswith(SETUP)]


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
    done = subprocess.run(words, cwd=checkout, env=environment(checkout), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_code_runs_as_pasted(code, checkout, demo_weights):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
