"""A dataset with crowd and void whose stuff has smaller ids than its things, and predictions for it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_segformer import add_panoptic_segformer_config
from panoptic_segformer.data import register_datasets, write_scenes

Prediction = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes with a crowd, void, and a category that never occurs; contiguous ids of things start at 7."""
    folder = write_scenes(tmp_path_factory.mktemp("evaluation") / "scenes", 6, seed=21, size=(96, 128))
    path = folder / "panoptic.json"
    content = json.loads(path.read_text())
    new_ids = {}
    for category in content["categories"]:
        new_ids[category["id"]] = category["id"] = category["id"] * 3 + (100 if category["isthing"] else 0)
    content["categories"].insert(0, {"id": 2, "name": "unseen", "isthing": 0, "color": [1, 2, 3]})
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = new_ids[segment["category_id"]]
    for segment in content["annotations"][0]["segments_info"][:1]:
        assert segment["category_id"] > 100
        segment["iscrowd"] = 1
    path.write_text(json.dumps(content))
    return folder


def register(name: str, folder: Path) -> CfgNode:
    cfg = get_cfg()
    add_panoptic_segformer_config(cfg)
    cfg.DATASETS.REGISTER[name] = CfgNode(
        {
            "IMAGES": str(folder / "images"),
            "PANOPTIC_JSON": str(folder / "panoptic.json"),
            "PANOPTIC_PNG": str(folder / "panoptic_png"),
        }
    )
    cfg.DATASETS.TEST = (name,)
    register_datasets(cfg)
    return cfg


@pytest.fixture
def cfg(scene_folder: Path, tmp_path: Path) -> CfgNode:
    """Config in which the dataset is registered as "scenes"."""
    cfg = register("scenes", scene_folder)
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


@pytest.fixture
def register_folder(tmp_path: Path) -> Callable[[str, Path], CfgNode]:
    def make(name: str, folder: Path) -> CfgNode:
        cfg = register(name, folder)
        cfg.OUTPUT_DIR = str(tmp_path)
        return cfg

    return make


@pytest.fixture(autouse=True)
def _forget_datasets() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _things(ids: np.ndarray, segments: list[dict[str, Any]]) -> Instances:
    things = [segment for segment in segments if segment["isthing"]]
    masks = torch.tensor(np.array([ids == s["id"] for s in things]).reshape(len(things), *ids.shape))
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (segment["bbox"] for segment in things)]
    return Instances(
        ids.shape,
        pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4).float()),
        pred_masks=masks,
        pred_classes=torch.tensor([segment["category_id"] for segment in things], dtype=torch.int64),
        scores=torch.linspace(0.9, 0.8, len(things)),
    )


def perfect_predictions(name: str) -> list[Prediction]:
    """Return input and output of a model that finds every segment, crowds too."""
    predictions = []
    for entry in DatasetCatalog.get(name):
        ids = rgb2id(np.array(Image.open(entry["pan_seg_file_name"])))
        small_ids, segments = np.zeros_like(ids), []
        for number, info in enumerate(entry["segments_info"], start=1):
            small_ids[ids == info["id"]] = number
            segments.append({"id": number, "category_id": info["category_id"], "isthing": info["isthing"]})
        picture = {key: entry[key] for key in ("file_name", "image_id", "height", "width")}
        output = {
            "panoptic_seg": (torch.from_numpy(small_ids.astype(np.int32)), segments),
            "instances": _things(ids, entry["segments_info"]),
        }
        predictions.append((picture, output))
    return predictions


@pytest.fixture
def predictions(cfg: CfgNode) -> list[Prediction]:
    return perfect_predictions("scenes")


@pytest.fixture
def perfect() -> Callable[[str], list[Prediction]]:
    return perfect_predictions


@pytest.fixture
def evaluate() -> Callable[[Any, list[Prediction]], dict[str, dict[str, float]]]:
    def run(evaluator: Any, predictions: list[Prediction]) -> dict[str, dict[str, float]]:
        evaluator.reset()
        for picture, output in predictions:
            evaluator.process([picture], [output])
        return evaluator.evaluate()

    return run


@pytest.fixture
def perturb() -> Callable[[list[Prediction], int], list[Prediction]]:
    """Shift, relabel, merge and drop segments at random."""

    def run(predictions: list[Prediction], seed: int) -> list[Prediction]:
        rng = np.random.default_rng(seed)
        perturbed = copy.deepcopy(predictions)
        for _, output in perturbed:
            ids, segments = output["panoptic_seg"]
            ids = np.roll(ids.numpy(), rng.integers(-6, 7, 2), axis=(0, 1))
            for segment in list(segments):
                chance = rng.random()
                if chance < 0.15:
                    ids[ids == segment["id"]] = 0
                elif chance < 0.25:
                    ids[ids == segment["id"]] = segments[0]["id"]
                elif chance < 0.4:
                    other = segments[rng.integers(len(segments))]
                    segment.update(category_id=other["category_id"], isthing=other["isthing"])
            seen = set(np.unique(ids).tolist())
            output["panoptic_seg"] = torch.from_numpy(ids), [s for s in segments if s["id"] in seen]
        return perturbed

    return run
