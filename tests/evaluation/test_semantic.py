"""Semantic quality of panoptic maps; Detectron2's evaluator is the oracle."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_segformer.evaluation.semantic import SemanticEvaluator
from panoptic_segformer.evaluation.truth import PanopticTruth


def read_classes(filename: str, copy: bool = False, dtype: type | None = None) -> np.ndarray:
    """Stand in for Detectron2's loader, whose `np.array(..., copy=False)` NumPy 2 refuses."""
    with Image.open(filename) as image:
        return np.array(image, dtype=dtype)


@pytest.fixture
def evaluator(cfg: CfgNode) -> SemanticEvaluator:
    return SemanticEvaluator(PanopticTruth.of_dataset("scenes"))


def test_perfect_prediction_has_quality_100(evaluator, predictions, evaluate) -> None:
    results = evaluate(evaluator, predictions)["sem_seg"]
    for key in ("mIoU", "fwIoU", "mACC", "pACC", "IoU-sky", "ACC-ball"):
        assert results[key] == pytest.approx(100)
    assert math.isnan(results["IoU-unseen"])


def test_pixels_without_prediction_are_wrong(evaluator, predictions, evaluate) -> None:
    for _, output in predictions:
        output["panoptic_seg"][0][:48] = 0
    results = evaluate(evaluator, predictions)["sem_seg"]
    truth = np.concatenate([evaluator._truth.segment_ids(picture["image_id"]) for picture, _ in predictions])
    kept = (truth.reshape(-1, 96, 128)[:, 48:] > 0).sum() / (truth > 0).sum()
    assert results["pACC"] == pytest.approx(100 * kept)


def test_pixels_without_truth_do_not_count(evaluator, predictions, evaluate) -> None:
    for picture, output in predictions:
        ids, segments = output["panoptic_seg"]
        ids[torch.from_numpy(evaluator._truth.segment_ids(picture["image_id"]) == 0)] = segments[0]["id"]
    assert evaluate(evaluator, predictions)["sem_seg"]["mIoU"] == pytest.approx(100)


@pytest.mark.parametrize("seed", range(3))
def test_quality_equals_detectron2_where_everything_is_predicted(
    evaluator, predictions, evaluate, perturb, tmp_path: Path, seed: int
) -> None:
    """Detectron2 knows no void predictions, so void gets a class first."""
    perturbed = perturb(predictions, seed)
    records, outputs = [], []
    by_picture = {entry["image_id"]: entry for entry in DatasetCatalog.get("scenes")}
    for picture, output in perturbed:
        ids, segments = output["panoptic_seg"]
        ids[ids == 0] = segments[-1]["id"]
        entry = by_picture[picture["image_id"]]
        truth_ids = rgb2id(np.array(Image.open(entry["pan_seg_file_name"])))
        truth = np.full(truth_ids.shape, 255, dtype=np.uint8)
        for segment in entry["segments_info"]:
            truth[truth_ids == segment["id"]] = segment["category_id"]
        path = tmp_path / f"{picture['image_id']}.png"
        Image.fromarray(truth).save(path)
        records.append({"file_name": picture["file_name"], "sem_seg_file_name": str(path)})
        classes = torch.zeros(ids.shape, dtype=torch.int64)
        for segment in segments:
            classes[ids == segment["id"]] = segment["category_id"]
        outputs.append({"sem_seg": torch.nn.functional.one_hot(classes, 13).permute(2, 0, 1)})
    names = MetadataCatalog.get("scenes").stuff_classes
    DatasetCatalog.register("semantic", lambda: records)
    MetadataCatalog.get("semantic").set(stuff_classes=names, ignore_label=255)
    oracle = SemSegEvaluator("semantic", sem_seg_loading_fn=read_classes)
    expected = evaluate(oracle, list(zip(records, outputs, strict=True)))["sem_seg"]

    results = evaluate(evaluator, perturbed)["sem_seg"]
    assert 10 < results["mIoU"] < 90
    for key in ("mIoU", "fwIoU", "mACC", "pACC", *(f"{what}-{name}" for what in ("IoU", "ACC") for name in names)):
        assert results[key] == pytest.approx(expected[key], nan_ok=True), key


def test_real_semantic_files_are_perfect(shared_dir: Path, register_folder, evaluate) -> None:
    folder = shared_dir / "data" / "coco_tiny_free"
    register_folder("tiny", folder)
    predictions = []
    for entry in DatasetCatalog.get("tiny"):
        classes = np.array(Image.open(folder / "sem_seg" / (Path(entry["file_name"]).stem + ".png"))).astype(np.int32)
        present = [int(value) for value in np.unique(classes) if value != 255]
        ids = torch.from_numpy(np.where(classes == 255, 0, classes + 1).astype(np.int32))
        segments = [{"id": value + 1, "category_id": value, "isthing": value < 80} for value in present]
        predictions.append((entry, {"panoptic_seg": (ids, segments)}))
    results = evaluate(SemanticEvaluator(PanopticTruth.of_dataset("tiny")), predictions)["sem_seg"]
    assert results["mIoU"] == results["pACC"] == pytest.approx(100)


def test_things_are_without_truth_where_stuff_alone_is_learned(cfg, predictions, evaluate) -> None:
    for _, output in predictions:
        ids, segments = output["panoptic_seg"]
        for segment in segments:
            if segment["isthing"]:
                ids[ids == segment["id"]] = 0
    results = evaluate(SemanticEvaluator(PanopticTruth.of_dataset("scenes"), with_things=False), predictions)["sem_seg"]
    assert results["mIoU"] == pytest.approx(100)
    assert results["pACC"] == pytest.approx(100)
    assert "IoU-sky" in results
    assert "IoU-ball" not in results
