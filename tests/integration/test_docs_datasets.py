"""The commands and the code of docs/datasets.md run as they stand there, on small data of each layout."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from documents import ROOT, blocks, broken_links, commands, run_in_checkout
from panoptic_segformer.data.validation import ALL_FAULTS

DOCUMENT = ROOT / "docs/datasets.md"
SHORT = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
SIZE = (48, 64)


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def save_json(content: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def layouts(checkout) -> Path:
    """The checkout with a picture, half of it a thing, in every layout."""
    picture = np.zeros((*SIZE, 3), np.uint8)
    half = np.zeros(SIZE, bool)
    half[10:30, 10:40] = True
    corners = [[10, 10], [40, 10], [40, 30], [10, 30]]
    (class_json,) = blocks(DOCUMENT, "json")
    save_json(json.loads(class_json), checkout / "my_classes.json")

    save(picture, checkout / "my_pictures/a.png")
    shapes = [{"label": "cat", "points": corners}]
    labels = {"shapes": shapes, "imagePath": "../my_pictures/a.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    save_json(labels, checkout / "my_labels/a.json")

    image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    instance = {"image_id": 1, "category_id": 1, "segmentation": [[v for corner in corners for v in corner]]}
    save_json({"images": [image], "annotations": [instance]}, checkout / "my_instances.json")
    save(np.full(SIZE, 2, np.uint8), checkout / "my_semantic/a.png")

    ade20k = checkout / "datasets/ADEChallengeData2016"
    save(picture, ade20k / "images/validation/a.png")
    save(np.where(half, 8, 1).astype(np.uint8), ade20k / "annotations/validation/a.png")
    save(half[..., None] * np.uint8([1, 1, 0]), ade20k / "annotations_instance/validation/a.png")

    cityscapes = checkout / "datasets/cityscapes"
    save(picture, cityscapes / "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png")
    save(np.where(half, 26001, 7).astype(np.uint16), cityscapes / "gtFine/val/ulm/ulm_1_gtFine_instanceIds.png")
    return checkout


def test_all_faults_are_listed():
    text = DOCUMENT.read_text(encoding="utf-8")
    for fault in ALL_FAULTS.values():
        fix = "yes" if fault.is_fixable else ""
        assert f"| {fault.name} | {fault.severity} | {fault.explanation} | {fix} |\n" in text


def test_links_of_datasets_lead_somewhere():
    assert broken_links(DOCUMENT) == []


def test_document_has_commands_of_all_layouts():
    lines = commands(DOCUMENT)
    for layout in ("labelme", "instances", "ade20k", "cityscapes"):
        assert any(line.startswith(f"panseg convert {layout} ") for line in lines)
    assert sum(line.startswith("panseg validate ") for line in lines) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(DOCUMENT), ids=lambda line: " ".join(line.split()[:3]))
def test_command_of_datasets_runs_as_pasted(command, layouts):
    words = shlex.split(command)
    if words[0] == "python":
        words += [*SHORT, "MODEL.WEIGHTS", ""]  # the backbone's weights are a download
    done = run_in_checkout(words, layouts)
    if words[:2] == ["panseg", "convert"]:
        assert ("wrote 1 segments" if words[2] == "labelme" else "wrote 2 segments") in done.stdout
    if words[:2] == ["panseg", "validate"]:
        assert ": 0 errors, 0 warnings" in done.stdout
    for option in ("--report", "--statistics", "--fix", "--json", "--png"):
        if option in words:
            assert (layouts / words[words.index(option) + 1]).exists()


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks(DOCUMENT, "python"))
def test_python_code_of_datasets_runs_as_pasted(code, layouts):
    run_in_checkout([sys.executable, "-c", code], layouts)
