"""Precision of things, its truth derived from panoptic truth."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from pycocotools import mask as rle

from panoptic_segformer.evaluation.instances import ThingPrecisionEvaluator, write_thing_annotations
from panoptic_segformer.evaluation.truth import PanopticTruth


@pytest.fixture
def evaluator(cfg: CfgNode) -> ThingPrecisionEvaluator:
    return ThingPrecisionEvaluator(PanopticTruth.of_dataset("scenes"), cfg.OUTPUT_DIR)


def test_perfect_prediction_has_precision_100(evaluator, predictions, evaluate) -> None:
    results = evaluate(evaluator, predictions)
    assert set(results) == {"segm", "bbox"}
    for task in results.values():
        assert task["AP"] == task["AP50"] == task["AP75"] == pytest.approx(100)
        assert task["AP-ball"] == pytest.approx(100)
        assert {key for key in task if "-" in key} == {
            f"AP-{name}" for name in ("ball", "ring", "star", "crate", "tent", "boat")
        }


def test_wrong_classes_lower_the_precision(evaluator, predictions, evaluate) -> None:
    for _, output in predictions[::2]:
        output["instances"].pred_classes = output["instances"].pred_classes.roll(1)
    assert evaluate(evaluator, predictions)["segm"]["AP"] < 95


def test_missed_things_lower_the_precision_but_a_missed_crowd_does_not(evaluator, predictions, evaluate) -> None:
    instances = predictions[0][1]["instances"]
    predictions[0][1]["instances"] = instances[1:]
    assert evaluate(evaluator, predictions)["segm"]["AP"] == pytest.approx(100)
    predictions[0][1]["instances"] = instances[2:]
    assert evaluate(evaluator, predictions)["segm"]["AP"] < 99


def test_predictions_on_a_crowd_are_not_wrong(evaluator, predictions, evaluate) -> None:
    instances = predictions[0][1]["instances"]
    # Confident parts of the crowd, which would be false positives elsewhere.
    part = instances[0]
    part.pred_masks[:, ::2] = False
    part.scores[:] = 1.0
    predictions[0][1]["instances"] = type(instances).cat([instances[1:], part, part])
    assert evaluate(evaluator, predictions)["segm"]["AP"] == pytest.approx(100)


def test_model_without_instances_has_no_precision(evaluator, predictions, evaluate, caplog) -> None:
    for _, output in predictions:
        del output["instances"]
    with caplog.at_level("INFO", logger="panoptic_segformer.evaluation.instances"):
        assert evaluate(evaluator, predictions) == {}
    assert "no instances" in caplog.text


def test_model_that_finds_nothing_has_nan_or_0(evaluator, predictions, evaluate) -> None:
    for _, output in predictions:
        output["instances"] = output["instances"][:0]
    precision = evaluate(evaluator, predictions)["segm"]["AP"]
    assert math.isnan(precision) or precision == 0


def test_results_are_written_with_the_datasets_ids(evaluator, predictions, evaluate, cfg: CfgNode) -> None:
    evaluate(evaluator, predictions)
    written = json.loads((Path(cfg.OUTPUT_DIR) / "coco_instances_results.json").read_text())
    assert {entry["category_id"] for entry in written} <= {103, 106, 109, 112, 115, 118}


def test_annotations_are_derived_once(cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = PanopticTruth.of_dataset("scenes")
    ThingPrecisionEvaluator(truth, tmp_path / "results")
    (written,) = (tmp_path / "results").iterdir()
    before = written.stat().st_mtime_ns
    monkeypatch.setattr(PanopticTruth, "segment_ids", lambda *_: pytest.fail("derived again"))
    ThingPrecisionEvaluator(truth, tmp_path / "results")
    assert written.stat().st_mtime_ns == before


def test_annotations_are_derived_again_for_another_truth(cfg: CfgNode, scene_folder, register_folder, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("images", "panoptic_png"):
        (other / name).symlink_to(scene_folder / name)
    content = json.loads((scene_folder / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"][0]["iscrowd"] = 0
    (other / "panoptic.json").write_text(json.dumps(content))
    register_folder("other", other)
    for name in ("scenes", "other"):
        ThingPrecisionEvaluator(PanopticTruth.of_dataset(name), tmp_path / "results")
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_annotations_equal_the_official_ones(shared_dir: Path, register_folder, tmp_path: Path) -> None:
    folder = shared_dir / "data" / "coco_tiny_free"
    register_folder("tiny", folder)
    write_thing_annotations(PanopticTruth.of_dataset("tiny"), tmp_path / "things.json")
    derived, official = (
        {
            (a["image_id"], a["category_id"], a["iscrowd"], a["area"], tuple(a["bbox"]), a["segmentation"]["counts"])
            for a in json.loads(path.read_text())["annotations"]
        }
        for path in (tmp_path / "things.json", folder / "instances.json")
    )
    assert len(derived) == 156
    assert derived == official


def test_precision_equals_detectron2_on_official_annotations(
    shared_dir: Path, register_folder, perfect, evaluate, tmp_path: Path
) -> None:
    folder = shared_dir / "data" / "coco_tiny_free"
    register_folder("tiny", folder)
    predictions = perfect("tiny")
    torch.manual_seed(0)
    for _, output in predictions:
        instances = output["instances"]
        instances.scores = torch.rand(len(instances))
        instances.pred_masks = instances.pred_masks.roll(2, dims=2)
        changed = torch.rand(len(instances)) < 0.2
        instances.pred_classes[changed] = 0
    evaluator = ThingPrecisionEvaluator(PanopticTruth.of_dataset("tiny"), tmp_path)
    results = evaluate(evaluator, predictions)

    MetadataCatalog.get("official").set(
        json_file=str(folder / "instances.json"),
        thing_classes=MetadataCatalog.get("tiny").thing_classes[:80],
        thing_dataset_id_to_contiguous_id=MetadataCatalog.get("tiny").thing_dataset_id_to_contiguous_id,
    )
    expected = evaluate(COCOEvaluator("official", ("bbox", "segm"), use_fast_impl=False), predictions)
    MetadataCatalog.remove("official")
    assert 10 < results["segm"]["AP"] < 90
    for task in ("bbox", "segm"):
        assert results[task] == pytest.approx(expected[task], nan_ok=True)


def test_run_lengths_decode_to_the_segment(cfg: CfgNode, tmp_path: Path) -> None:
    truth = PanopticTruth.of_dataset("scenes")
    write_thing_annotations(truth, tmp_path / "things.json")
    annotation = json.loads((tmp_path / "things.json").read_text())["annotations"][0]
    segment = truth.annotations[annotation["image_id"]]["segments_info"][0]
    mask = rle.decode(annotation["segmentation"]).astype(bool)
    assert (mask == (truth.segment_ids(annotation["image_id"]) == segment["id"])).all()
    assert annotation["iscrowd"] == 1
    assert annotation["bbox"] == segment["bbox"]
