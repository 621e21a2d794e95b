"""Boundary IoU: the published definition by erosion of single masks is the oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from panoptic_segformer.evaluation.boundary import boundary_ious, interior


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
