"""Counts of panoptic quality: panopticapi and hotcoco are the oracles."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from panopticapi.evaluation import PQStat, pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_segformer.evaluation.quality import (
    Overlap,
    class_indices,
    class_qualities,
    count_matches,
    group_qualities,
    joint_histogram,
    no_counts,
)
from panoptic_segformer.evaluation.truth import PanopticTruth

CATEGORIES = [{"id": id_, "name": f"class {id_}", "isthing": int(id_ < 5)} for id_ in (1, 4, 7, 200)]
CLASSES = class_indices(CATEGORIES)
# Small and large ones, with gaps; of one segment map each.
IDS = (0, 1, 2, 300, 70_000, 2**24 - 1)


@st.composite
def segmentations(draw, shape: tuple[int, int], crowds: bool) -> tuple[np.ndarray, list[dict]]:
    """A map of a few rectangles, void among them, and its records."""
    ids = np.full(shape, draw(st.sampled_from(IDS)), dtype=np.int64)
    for _ in range(draw(st.integers(0, 6))):
        top, left = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
        bottom, right = draw(st.integers(top, shape[0])), draw(st.integers(left, shape[1]))
        ids[top:bottom, left:right] = draw(st.sampled_from(IDS))
    records = [
        {
            "id": id_,
            "category_id": draw(st.sampled_from(list(CLASSES))),
            "iscrowd": int(crowds and draw(st.integers(0, 4)) == 0),
        }
        for id_ in np.unique(ids[ids > 0]).tolist()
    ]
    return ids, draw(st.permutations(records))


@st.composite
def pictures(draw) -> tuple[np.ndarray, list[dict], np.ndarray, list[dict]]:
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    truth = draw(segmentations(shape, crowds=True))
    predicted = draw(segmentations(shape, crowds=False))
    if draw(st.booleans()):  # Independent maps hardly ever match: take over a part of the truth.
        rows = draw(st.integers(0, shape[0]))
        ids = predicted[0].copy()
        ids[:rows] = truth[0][:rows]
        known = {record["id"]: record for record in (*predicted[1], *truth[1])}
        predicted = ids, [dict(known[id_], iscrowd=0) for id_ in np.unique(ids[ids > 0]).tolist()]
    return *truth, *predicted


def oracle(folder: Path, true_ids, true_records, predicted_ids, predicted_records, categories) -> PQStat:
    """Count one picture by panopticapi, with correct areas in the records."""
    for name, ids in (("truth.png", true_ids), ("prediction.png", predicted_ids)):
        Image.fromarray(id2rgb(ids)).save(folder / name)
    true = [{**record, "area": int((true_ids == record["id"]).sum())} for record in true_records]
    annotation = {"image_id": 1, "file_name": "truth.png", "segments_info": true}
    predicted = {"file_name": "prediction.png", "segments_info": [dict(record) for record in predicted_records]}
    by_id = {category["id"]: category for category in categories}
    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute_single_core(0, [(annotation, predicted)], str(folder), str(folder), by_id)


def count(true_ids, true_records, predicted_ids, predicted_records, classes=CLASSES) -> np.ndarray:
    overlap = Overlap.of(true_ids, true_records, predicted_ids, predicted_records, classes)
    return count_matches(overlap, overlap.ious(), len(classes))


def as_array(stat: PQStat, classes) -> np.ndarray:
    return np.array([[stat[id_].iou, stat[id_].tp, stat[id_].fp, stat[id_].fn] for id_ in classes])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(picture=pictures())
def test_counts_equal_panopticapi(tmp_path: Path, picture) -> None:
    np.testing.assert_allclose(
        count(*picture).sum(axis=0), as_array(oracle(tmp_path, *picture, CATEGORIES), CLASSES), rtol=0, atol=1e-9
    )


def shifted(ids: np.ndarray, records: list[dict], rng: np.random.Generator) -> tuple[np.ndarray, list[dict]]:
    """Move the map by some pixels, drop a segment, join two and change classes."""
    ids = np.roll(ids, rng.integers(-8, 9, 2), axis=(0, 1))
    records = [{"id": record["id"], "category_id": record["category_id"]} for record in records]
    first, second, third = rng.choice(len(records), 3)
    records[first]["category_id"] = records[second]["category_id"]
    ids[ids == records[third]["id"]] = 0
    ids[ids == records[second]["id"]] = records[first]["id"]
    present = set(np.unique(ids).tolist())
    return ids, [record for record in records if record["id"] in present]


@pytest.mark.parametrize("name", ["coco_val", "ade20k3"])
def test_counts_of_real_pictures_equal_panopticapi(shared_dir: Path, tmp_path: Path, name: str) -> None:
    folder = shared_dir / "data" / name
    truth = PanopticTruth.of_files(folder / "panoptic.json", folder / "panoptic_png")
    classes, rng, total, expected = class_indices(truth.categories), np.random.default_rng(0), 0, PQStat()
    chosen = sorted(truth.annotations, key=lambda id_: -sum(s["iscrowd"] for s in segments_of(truth, id_)))[:6]
    for image_id in chosen:
        ids, records = truth.segment_ids(image_id), segments_of(truth, image_id)
        predicted = shifted(ids, records, rng)
        total = total + count(ids, records, *predicted, classes).sum(axis=0)
        expected += oracle(tmp_path, ids, records, *predicted, truth.categories)
    np.testing.assert_allclose(total, as_array(expected, classes), rtol=0, atol=1e-9)
    assert total[:, 1].sum() > 10
    assert (total[:, 2:].sum(axis=0) > 0).all()
    by_id = {category["id"]: category for category in truth.categories}
    results = group_qualities(total, truth.categories)
    for ending, isthing in (("", None), ("_th", True), ("_st", False)):
        for key, value in expected.pq_average(by_id, isthing)[0].items():
            if key != "n":
                assert results[f"{key.upper()}{ending}"] == pytest.approx(100 * value, abs=1e-9)


def segments_of(truth: PanopticTruth, image_id: int) -> list[dict]:
    return truth.annotations[image_id]["segments_info"]


def test_qualities_equal_hotcoco(shared_dir: Path, tmp_path: Path) -> None:
    panoptic = pytest.importorskip("hotcoco.panoptic", reason="the second oracle")
    folder = shared_dir / "data" / "coco_tiny_free"
    truth = PanopticTruth.of_files(folder / "panoptic.json", folder / "panoptic_png")
    classes, rng, total, annotations = class_indices(truth.categories), np.random.default_rng(1), 0, []
    for image_id, annotation in truth.annotations.items():
        ids, records = shifted(truth.segment_ids(image_id), annotation["segments_info"], rng)
        total = total + count(truth.segment_ids(image_id), annotation["segments_info"], ids, records, classes)
        Image.fromarray(id2rgb(ids)).save(tmp_path / f"{image_id}.png")
        annotations.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": records})
    (tmp_path / "predictions.json").write_text(json.dumps({"annotations": annotations}))
    evaluation = panoptic.PanopticEval(
        str(truth.json_path), str(tmp_path / "predictions.json"),
        gt_folder=str(truth.png_root), pred_folder=str(tmp_path),
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.run()
    expected, results = evaluation.results(), group_qualities(total.sum(axis=0), truth.categories)
    for group, ending in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for key in ("pq", "sq", "rq"):
            assert results[f"{key.upper()}{ending}"] == pytest.approx(100 * expected[group][key], abs=1e-9)


@given(picture=pictures())
def test_counts_of_sizes_and_classes_are_those_of_single_segments(picture) -> None:
    """Enlarged so that all three sizes occur; each segment is counted once."""
    true_ids, true_records, predicted_ids, predicted_records = picture
    true_ids, predicted_ids = (ids.repeat(20, axis=0).repeat(20, axis=1) for ids in (true_ids, predicted_ids))
    counts = count(true_ids, true_records, predicted_ids, predicted_records)
    np.testing.assert_allclose(counts.sum(axis=0), count(*picture).sum(axis=0), rtol=0, atol=1e-9)
    for size, (least, limit) in enumerate([(0, 1024), (1024, 9216), (9216, 10**9)]):
        for class_, index in CLASSES.items():
            of_size = [
                record
                for record in true_records
                if record["category_id"] == class_
                and not record["iscrowd"]
                and least <= (true_ids == record["id"]).sum() < limit
            ]
            assert counts[size, index, 1] + counts[size, index, 3] == len(of_size)


def test_false_segments_have_their_own_size() -> None:
    truth = np.full((200, 200), 9)
    predicted = np.zeros((200, 200), dtype=int)
    predicted[:31, :33], predicted[100:132, :32], predicted[50:146, 100:196] = 1, 2, 3
    counts = count(truth, [{"id": 9, "category_id": 200}], predicted, [{"id": n, "category_id": 1} for n in (1, 2, 3)])
    assert counts[:, CLASSES[1], 2].tolist() == [1, 1, 1]
    assert counts[:, CLASSES[200]].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


@given(
    maps=arrays.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
        lambda shape: st.tuples(*[arrays.arrays(np.int32, shape, elements=st.sampled_from(IDS))] * 2)
    )
)
def test_joint_histogram_counts_every_pair(maps) -> None:
    first, second = maps
    histogram = joint_histogram(first, second, IDS[:0:-1], IDS[1:])
    for row, first_id in enumerate((0, *IDS[:0:-1])):
        for column, second_id in enumerate(IDS):
            assert histogram[row, column] == ((first == first_id) & (second == second_id)).sum()


@given(picture=pictures())
def test_confusion_counts_the_pixels_of_classes(picture) -> None:
    true_ids, true_records, predicted_ids, predicted_records = picture
    confusion = Overlap.of(*picture, CLASSES).confusion(len(CLASSES))
    void = len(CLASSES)
    true_classes, predicted_classes = (
        np.select([ids == r["id"] for r in records], [CLASSES[r["category_id"]] for r in records], void)
        if records
        else np.full(ids.shape, void)
        for ids, records in ((true_ids, true_records), (predicted_ids, predicted_records))
    )
    expected = np.zeros_like(confusion)
    np.add.at(expected, (predicted_classes, true_classes), 1)
    np.testing.assert_array_equal(confusion, expected)


def test_what_does_not_occur_is_nan_and_what_is_never_found_is_zero() -> None:
    counts = no_counts(4)[0]
    counts[1, 3] = 2
    values = class_qualities(counts)
    assert values[1].tolist() == [0, 0, 0]
    assert np.isnan(values[[0, 2, 3]]).all()
    results = group_qualities(counts, CATEGORIES)
    assert results["PQ"] == results["PQ_th"] == 0
    assert np.isnan(results["PQ_st"])


MAP = np.array([[1, 1, 2], [1, 1, 0]])
RECORDS = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 200}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MAP, RECORDS, MAP[:1], RECORDS), r"sizes \(2, 3\) and \(1, 3\) \(height, width\)"),
        ((MAP, RECORDS[:1], MAP, RECORDS), "pixels of the ids 2, which its records do not list"),
        ((MAP, RECORDS, -MAP, RECORDS), "pixels of the ids -2, -1, which its records do not list"),
        ((MAP, RECORDS, MAP, [*RECORDS, {"id": 8, "category_id": 1}]), "segments without pixels, ids 8"),
        ((MAP, RECORDS, MAP, [RECORDS[0], {"id": 2, "category_id": 5}]), "segment 2 has category_id 5, .* 4 from 1"),
    ],
)
def test_contradictions_are_named(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Overlap.of(*arguments, CLASSES)
