"""Boundary IoU: the published definition by erosion of single masks is the oracle."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from panoptic_segformer.evaluation.boundary import boundary_ious, interior
from panoptic_segformer.evaluation.counting import Evaluation
from panoptic_segformer.evaluation.quality import Overlap, class_indices


@st.composite
def id_maps(draw) -> np.ndarray:
    shape = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    ids = np.full(shape, draw(st.sampled_from((0, 3))))
    for _ in range(draw(st.integers(0, 4))):
        top, left = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
        ids[top : draw(st.integers(top, shape[0])), left : draw(st.integers(left, shape[1]))] = draw(st.integers(0, 5))
    return ids


def eroded(mask: np.ndarray, distance: int) -> np.ndarray:
    """A mask eroded `distance` times by 3 x 3, everything outside the picture being 0."""
    return ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)


@given(ids=id_maps(), distance=st.integers(1, 6))
def test_interior_is_the_erosion_of_each_segment(ids: np.ndarray, distance: int) -> None:
    expected = np.any([eroded(ids == id_, distance) for id_ in np.unique(ids)], axis=0)
    np.testing.assert_array_equal(interior(ids, distance), expected)


def blobs(seed: int, shape: tuple[int, int] = (90, 120)) -> np.ndarray:
    """Segments 0 (void) to 4 with winding outlines."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(5, *shape)), (0, 9, 9))
    return field.argmax(axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_iou_is_that_of_single_masks(seed: int) -> None:
    true, predicted = blobs(seed), np.roll(blobs(seed), 3, axis=1)
    distance = round(0.02 * math.hypot(*true.shape))
    assert distance == 3
    true_ids, predicted_ids = (np.unique(ids[ids > 0]).tolist() for ids in (true, predicted))
    measured = boundary_ious(true, predicted, true_ids, predicted_ids)
    assert measured.shape == (len(true_ids), len(predicted_ids))
    for row, true_id in enumerate(true_ids):
        true_edge = (true == true_id) & ~eroded(true == true_id, distance)
        for column, predicted_id in enumerate(predicted_ids):
            mask = predicted == predicted_id
            edge = mask & ~eroded(mask, distance)
            union = (true_edge | edge).sum() - (edge & ~true_edge & (true == 0)).sum()
            assert measured[row, column] == pytest.approx((true_edge & edge).sum() / union, abs=1e-12)
    assert 0.1 < measured.max() < 0.9


def test_boundaries_are_those_of_opencv_s_erosion() -> None:
    """The authors' code pads by a row and a column of zeros and erodes with OpenCV."""
    cv2 = pytest.importorskip("cv2", reason="the oracle, extra `robustness`")
    ids = blobs(7)
    for id_ in range(5):
        padded = np.pad((ids == id_).astype(np.uint8), 1)
        expected = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=4)[1:-1, 1:-1] > 0
        np.testing.assert_array_equal(interior(ids, 4) & (ids == id_), expected)
        assert expected.any()


def test_equal_maps_have_iou_one_and_thin_segments_are_all_boundary() -> None:
    ids = blobs(1)
    known = [1, 2, 3, 4]
    assert boundary_ious(ids, ids, known, known).diagonal().tolist() == [1, 1, 1, 1]
    thin, moved = np.zeros((100, 100), int), np.zeros((100, 100), int)
    thin[10:90, 40:44], moved[10:90, 42:46] = 9, 8
    # No void of the truth counts: what lies outside is ignored.
    assert boundary_ious(thin, moved, [9], [8]).tolist() == [[0.5]]


CATEGORIES = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 8, "name": "grass", "isthing": 0}]


def expected_counts(true, true_records, predicted, predicted_records) -> Counter:
    """Boundary PQ by its definition, pair by pair: counts by class of the sum of IoU, found, false and missed ones."""
    counts, matched, void = Counter(), set(), true == 0
    distance = max(1, round(0.02 * math.hypot(*true.shape)))
    for one in (record for record in true_records if not record["iscrowd"]):
        for other in (record for record in predicted_records if record["category_id"] == one["category_id"]):
            values = []
            masks = true == one["id"], predicted == other["id"]
            for own, its in (masks, [mask & ~eroded(mask, distance) for mask in masks]):
                values.append((own & its).sum() / max(((own | its) & ~(its & void & ~own)).sum(), 1))
            if min(values) > 0.5:
                matched |= {(True, one["id"]), (False, other["id"])}
                counts[one["category_id"], "iou"] += min(values)
                counts[one["category_id"], "found"] += 1
        counts[one["category_id"], "missed"] += (True, one["id"]) not in matched
    crowds = {record["category_id"]: true == record["id"] for record in true_records if record["iscrowd"]}
    for record in predicted_records:
        mask, class_ = predicted == record["id"], record["category_id"]
        is_ignored = (mask & (void | crowds.get(class_, void))).sum() > 0.5 * mask.sum()
        counts[class_, "false"] += not is_ignored and (False, record["id"]) not in matched
    return counts


def test_counts_with_void_and_crowds_are_those_of_the_definition() -> None:
    total = Counter()
    for seed in range(20):
        random = np.random.default_rng(seed)
        true, predicted = blobs(seed), np.roll(blobs(seed), random.integers(-2, 3, 2), axis=(0, 1))
        true_records = [
            {"id": id_, "category_id": int(random.choice([3, 8])), "iscrowd": int(random.random() < 0.25)}
            for id_ in np.unique(true[true > 0]).tolist()
        ]
        predicted_records = [
            {"id": id_, "category_id": int(random.choice([3, 8]))}
            for id_ in np.unique(predicted[predicted > 0]).tolist()
        ]
        known = {record["id"]: record["category_id"] for record in true_records}
        for record in predicted_records[:-1]:
            record["category_id"] = known.get(record["id"], 3)
        evaluation = Evaluation.of_nothing(CATEGORIES)
        ids = ([record["id"] for record in records] for records in (true_records, predicted_records))
        evaluation.add(
            Overlap.of(true, true_records, predicted, predicted_records, class_indices(CATEGORIES)),
            boundary_ious(true, predicted, *ids),
        )
        expected = expected_counts(true, true_records, predicted, predicted_records)
        for category, row in zip(CATEGORIES, evaluation.boundary_counts.sum(axis=0), strict=True):
            names = ("iou", "found", "false", "missed")
            np.testing.assert_allclose(row, [expected[category["id"], name] for name in names], atol=1e-9)
        total += expected
    assert all(total[class_, name] > 5 for class_ in (3, 8) for name in ("found", "false", "missed"))
