"""Panoptic quality: panopticapi is the oracle."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluators
from panopticapi.evaluation import pq_compute
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_segformer.data.reading import read_segment_ids
from panoptic_segformer.evaluation.panoptic import PanopticQualityEvaluator
from panoptic_segformer.evaluation.semantic import SemanticEvaluator
from panoptic_segformer.evaluation.truth import PanopticTruth


@pytest.fixture
def evaluator(cfg) -> PanopticQualityEvaluator:
    return PanopticQualityEvaluator(PanopticTruth.of_dataset("scenes"))


def test_perfect_prediction_has_quality_100_in_every_class_that_occurs(evaluator, predictions, evaluate) -> None:
    results = evaluate(evaluator, predictions)["panoptic_seg"]
    for key in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st", "PQ-ball", "PQ-sky"):
        assert results[key] == 100
    assert math.isnan(results["PQ-unseen"])
    assert len([key for key in results if key.startswith("PQ-")]) == 13


def test_model_without_panoptic_results_is_told_so(evaluator, predictions) -> None:
    (picture, _), *_ = predictions
    with pytest.raises(ValueError, match=r"returns \['instances', 'sem_seg'\] but no panoptic_seg.*switch"):
        evaluator.process([picture], [{"sem_seg": None, "instances": None}])


@pytest.mark.parametrize("seed", range(4))
def test_quality_equals_panopticapi(evaluator, predictions, evaluate, perturb, tmp_path: Path, seed: int) -> None:
    perturbed = perturb(predictions, seed)
    metadata = MetadataCatalog.get("scenes")
    category_ids = {
        (isthing, contiguous): category
        for isthing, ids in (
            (True, metadata.thing_dataset_id_to_contiguous_id),
            (False, metadata.stuff_dataset_id_to_contiguous_id),
        )
        for category, contiguous in ids.items()
    }
    annotations = []
    for picture, output in perturbed:
        ids, segments = output["panoptic_seg"]
        file_name = f"{picture['image_id']}.png"
        Image.fromarray(id2rgb(ids.numpy())).save(tmp_path / file_name)
        infos = [{"id": s["id"], "category_id": category_ids[s["isthing"], s["category_id"]]} for s in segments]
        annotations.append({"image_id": picture["image_id"], "file_name": file_name, "segments_info": infos})
    (tmp_path / "predictions.json").write_text(json.dumps({"annotations": annotations}))
    expected = pq_compute(
        metadata.panoptic_json, str(tmp_path / "predictions.json"), metadata.panoptic_root, str(tmp_path)
    )

    results = evaluate(evaluator, perturbed)["panoptic_seg"]
    assert 5 < results["PQ"] < 90
    for group, ending in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for key in ("pq", "sq", "rq"):
            assert results[f"{key.upper()}{ending}"] == pytest.approx(100 * expected[group][key], abs=1e-9)
    names = {key: metadata.thing_classes[value] for (_, value), key in category_ids.items()}
    for category, values in expected["per_class"].items():
        ours = results[f"PQ-{names[category]}"]
        assert ours == pytest.approx(100 * values["pq"], abs=1e-9) or (math.isnan(ours) and values["pq"] == 0)


def test_quality_equals_detectron2(evaluator, predictions, evaluate, perturb, tmp_path: Path) -> None:
    perturbed = perturb(predictions, 9)
    results = evaluate(evaluator, copy.deepcopy(perturbed))["panoptic_seg"]
    expected = evaluate(COCOPanopticEvaluator("scenes", str(tmp_path)), perturbed)["panoptic_seg"]
    assert {key: results[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("area", [1, 10**6, None])
def test_quality_does_not_depend_on_the_areas_of_the_json(
    evaluator, predictions, evaluate, perturb, register_folder, scene_folder, tmp_path, area
) -> None:
    perturbed = perturb(predictions, 1)
    expected = evaluate(evaluator, perturbed)
    content = json.loads((scene_folder / "panoptic.json").read_text())
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            del segment["area"]
            if area is not None:
                segment["area"] = area
    folder = tmp_path / "stale"
    folder.mkdir()
    for name in ("images", "panoptic_png"):
        (folder / name).symlink_to(scene_folder / name)
    (folder / "panoptic.json").write_text(json.dumps(content))
    register_folder("stale", folder)
    stale = PanopticQualityEvaluator(PanopticTruth.of_dataset("stale"))
    assert evaluate(stale, perturbed)["panoptic_seg"] == pytest.approx(expected["panoptic_seg"], nan_ok=True)


def test_segment_areas_are_those_of_correct_json(cfg) -> None:
    truth = PanopticTruth.of_dataset("scenes")
    for image_id, annotation in truth.annotations.items():
        expected = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
        assert expected.items() <= truth.segment_areas(image_id).items()


def test_process_leaves_the_prediction_as_it_is(evaluator, predictions) -> None:
    picture, output = predictions[0]
    before = copy.deepcopy(output["panoptic_seg"][1])
    evaluator.reset()
    evaluator.process([picture], [output])
    assert output["panoptic_seg"][1] == before


def test_crowd_and_void_are_neither_right_nor_wrong(evaluator, predictions, evaluate) -> None:
    ids, segments = predictions[0][1]["panoptic_seg"]
    crowd = segments.pop(0)
    ids[ids == crowd["id"]] = 0
    assert evaluate(evaluator, predictions)["panoptic_seg"]["PQ"] == 100


def test_void_prediction_misses_every_segment(evaluator, predictions, evaluate) -> None:
    empty = [
        (picture, {"panoptic_seg": (torch.zeros_like(output["panoptic_seg"][0]), [])})
        for picture, output in predictions
    ]
    results = evaluate(evaluator, [empty[0], *predictions[1:]])["panoptic_seg"]
    assert 0 < results["RQ"] < 100
    assert evaluate(evaluator, empty)["panoptic_seg"]["PQ"] == 0


def test_pictures_that_were_never_processed_are_an_error(evaluator, predictions, evaluate) -> None:
    with pytest.raises(ValueError, match=r"1 of 6 pictures .* have no prediction \(first: id 6\)"):
        evaluate(evaluator, predictions[:-1])


def test_pictures_that_were_processed_twice_are_an_error(evaluator, predictions, evaluate) -> None:
    with pytest.raises(ValueError, match=r"1 pictures of .* have more than one prediction \(first: id 2\)"):
        evaluate(evaluator, [*predictions, predictions[1]])


def test_reset_forgets_all_counts(evaluator, predictions, evaluate, perturb) -> None:
    expected = evaluate(evaluator, predictions)
    evaluate(evaluator, perturb(predictions, 2))
    assert evaluate(evaluator, predictions)["panoptic_seg"] == pytest.approx(expected["panoptic_seg"], nan_ok=True)


def test_what_an_evaluator_keeps_does_not_grow_with_the_pictures(evaluator, predictions) -> None:
    sizes = []
    for picture, output in predictions:
        evaluator.process([picture], [output])
        state = {key: value for key, value in vars(evaluator).items() if key not in ("_truth", "_image_ids")}
        sizes.append(len(pickle.dumps(state)))
    assert len(set(sizes)) == 1
    assert len(evaluator._image_ids) == 6


def test_the_truth_of_a_picture_is_read_once_for_all_evaluators(cfg, predictions, evaluate, monkeypatch) -> None:
    read = []

    def count(path: Path, size: tuple[int, int]) -> np.ndarray:
        read.append(path)
        return read_segment_ids(path, size)

    monkeypatch.setattr("panoptic_segformer.evaluation.truth.read_segment_ids", count)
    truth = PanopticTruth.of_dataset("scenes")
    evaluate(DatasetEvaluators([PanopticQualityEvaluator(truth), SemanticEvaluator(truth)]), predictions)
    assert len(read) == len(set(read)) == 6


def test_a_picture_that_the_truth_does_not_annotate_is_named(evaluator, predictions) -> None:
    picture, output = predictions[0]
    with pytest.raises(ValueError, match=r"no annotation for picture id 'strange'.*evaluate on the pictures"):
        evaluator.process([{**picture, "image_id": "strange"}], [output])


def test_a_class_of_another_dataset_is_named(evaluator, predictions) -> None:
    picture, output = predictions[0]
    output["panoptic_seg"][1][0]["category_id"] = 99
    with pytest.raises(ValueError, match=r"segment of things has the class 99, the dataset has \[7, 8"):
        evaluator.process([picture], [output])


def test_a_map_that_its_records_do_not_describe_is_an_error(evaluator, predictions) -> None:
    picture, output = predictions[0]
    output["panoptic_seg"][0][:] = 77
    with pytest.raises(ValueError, match="picture id 1: a map has pixels of the ids 77, which its records do not list"):
        evaluator.process([picture], [output])


def test_a_map_of_another_size_names_its_picture(evaluator, predictions) -> None:
    picture, output = predictions[2]
    ids, segments = output["panoptic_seg"]
    with pytest.raises(ValueError, match=r"picture id 3: .* sizes \(96, 128\) and \(95, 128\)"):
        evaluator.process([picture], [{"panoptic_seg": (ids[:-1], segments)}])


def test_a_map_without_records_is_an_error(evaluator, predictions) -> None:
    picture, output = predictions[0]
    with pytest.raises(ValueError, match="picture id 1: panoptic_seg has a map without records"):
        evaluator.process([picture], [{"panoptic_seg": (output["panoptic_seg"][0], None)}])


def test_a_dataset_of_things_alone_has_no_stuff_quality(
    predictions, evaluate, register_folder, scene_folder, tmp_path
) -> None:
    content = json.loads((scene_folder / "panoptic.json").read_text())
    for category in content["categories"]:
        category["isthing"] = 1
    folder = tmp_path / "things"
    folder.mkdir()
    for name in ("images", "panoptic_png"):
        (folder / name).symlink_to(scene_folder / name)
    (folder / "panoptic.json").write_text(json.dumps(content))
    register_folder("things", folder)
    for _, output in predictions:
        for segment in output["panoptic_seg"][1]:
            segment["isthing"] = True
    evaluator = PanopticQualityEvaluator(PanopticTruth.of_dataset("things"))
    results = evaluate(evaluator, predictions)["panoptic_seg"]
    assert results["PQ"] == results["PQ_th"] == 100
    assert math.isnan(results["PQ_st"])


def test_the_log_shows_each_class_that_occurs(evaluator, predictions, evaluate, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="panoptic_segformer.evaluation.panoptic"):
        evaluate(evaluator, predictions)
    for name in ("all", "things", "stuff", "ball", "sky"):
        assert f"| {name}" in caplog.text
    assert "unseen" not in caplog.text


def test_real_pictures_with_crowd_and_void_reach_100(shared_dir: Path, register_folder, perfect, evaluate) -> None:
    register_folder("tiny", shared_dir / "data" / "coco_tiny_free")
    evaluator = PanopticQualityEvaluator(PanopticTruth.of_dataset("tiny"))
    results = evaluate(evaluator, perfect("tiny"))["panoptic_seg"]
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == 100
    assert np.isfinite([value for key, value in results.items() if key.startswith("PQ-")]).sum() == 68
