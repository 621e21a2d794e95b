from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.visualization import Style, draw, draw_on_picture, draw_panoptic, side_by_side
from panoptic_segformer.visualization.draw import CONTOUR_OPACITY, OPACITY, index_of_ids

GREEN, PINK, BLUE = (60, 170, 60), (220, 20, 120), (70, 130, 180)
CATEGORIES = Categories((0, 2), (1,), ("person", "car"), ("sky",), (GREEN, PINK), (BLUE,))


@pytest.fixture
def scene():
    """A grey picture 480 x 640: sky above, two persons, void at the bottom."""
    image = np.full((480, 640, 3), 100, np.uint8)
    ids = torch.zeros(480, 640, dtype=torch.int32)
    ids[:300] = 7
    ids[100:400, 50:250] = 3
    ids[100:400, 350:550] = 5
    info = [
        {"id": 3, "category_id": 0, "isthing": True, "score": 0.91, "area": 60000},
        {"id": 5, "category_id": 0, "isthing": True, "score": 0.52, "area": 60000},
        {"id": 7, "category_id": 1, "isthing": False, "score": 0.77, "area": 80000},
    ]
    return image, ids, info


def blended(color):
    return np.round(np.array(color) * OPACITY + 100 * (1 - OPACITY))


def test_draw_paints_segments_and_leaves_void(scene):
    picture = draw_panoptic(*scene, CATEGORIES)
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (640, 3)
    assert picture.shape[0] > 480
    assert np.abs(picture[110, 60] - blended(GREEN)).max() <= 1
    assert np.abs(picture[20, 20] - blended(BLUE)).max() <= 1
    assert (picture[470, 320] == 100).all()
    assert np.abs(picture[110, 60].astype(int) - picture[110, 360]).max() > 15  # The other person has another shade.


def test_draw_contours_lie_on_the_borders_alone(scene):
    picture = draw_panoptic(*scene, CATEGORIES)
    assert (picture[380, 48:52].max(axis=0) > 255 * CONTOUR_OPACITY).all()
    assert np.abs(picture[380, 55] - blended(GREEN)).max() <= 1
    assert (picture[0, 1:100] == picture[0, 1]).all()  # The edge of the picture is no border.


def test_draw_writes_one_label_into_each_large_segment(scene):
    picture = draw_panoptic(*scene, CATEGORIES)
    for rows, columns in (((100, 400), (50, 250)), ((100, 400), (350, 550)), ((0, 100), (0, 640))):
        part = picture[slice(*rows), slice(*columns)]
        assert (part.max(axis=2) < 75).sum() > 300, "the box of a label darkens the picture"
    assert picture[401:480].min() >= 100, "void has no label"


def test_draw_twice_gives_equal_bytes(scene):
    assert (draw_panoptic(*scene, CATEGORIES) == draw_panoptic(*scene, CATEGORIES)).all()


def test_draw_accepts_array_and_tensor_alike_and_changes_neither(scene):
    image, ids, info = scene
    image_before, ids_before = image.copy(), ids.clone()
    from_array = draw_panoptic(image, ids.numpy().astype(np.int64), info, CATEGORIES)
    assert (from_array == draw_panoptic(image, ids, info, CATEGORIES)).all()
    assert (image == image_before).all()
    assert (ids == ids_before).all()


def test_draw_without_segments_keeps_the_picture(scene):
    image, ids, _ = scene
    picture = draw_panoptic(image, torch.zeros_like(ids), [], CATEGORIES)
    assert (picture[:480] == image).all()


def test_draw_ignores_ids_that_are_not_listed(scene):
    image, ids, info = scene
    picture = draw_panoptic(image, ids, [entry for entry in info if entry["id"] != 7], CATEGORIES)
    assert (picture[20, 20] == 100).all()


def test_draw_accepts_large_ids_of_truth_without_scores(scene):
    image, ids, info = scene
    large = ids.to(torch.int64) * 2_000_001
    truth = [{"id": entry["id"] * 2_000_001, "category_id": entry["category_id"]} for entry in info]
    picture = draw_panoptic(image, large, truth, CATEGORIES)
    assert np.abs(picture[110, 60] - blended(GREEN)).max() <= 1


def test_draw_many_classes_on_a_small_picture():
    count = 60
    names = tuple(f"a class with a rather long name {index}" for index in range(count))
    categories = Categories(tuple(range(count)), (), names, (), (GREEN,) * count, ())
    ids = np.arange(64 * 64).reshape(64, 64) % count + 1
    info = [{"id": index + 1, "category_id": index} for index in range(count)]
    picture = draw_panoptic(np.zeros((64, 64, 3), np.uint8), ids, info, categories)
    assert picture.shape[1] == 256
    assert picture.shape[0] > 256 + 60 * 11


def test_draw_keeps_things_and_stuff_of_one_id_apart(scene):
    image, ids, info = scene
    separated = Categories((0,), (0,), ("person",), ("sky",), (GREEN,), (BLUE,))
    shared = [{**segment, "category_id": 0} for segment in info]
    standard = Categories((0,), (1,), ("person",), ("sky",), (GREEN,), (BLUE,))
    assert (draw_panoptic(image, ids, shared, separated) == draw_panoptic(image, ids, info, standard)).all()


def test_pictures_can_be_written_to(scene):
    picture = draw_panoptic(*scene, CATEGORIES)
    for array in (picture, side_by_side([("", picture)])):
        array[0] = 0


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 5))
def test_draw_works_for_any_size(height, width, count):
    ids = np.arange(height * width).reshape(height, width) % (count + 1)
    info = [{"id": index + 1, "category_id": index % 3, "score": 0.5} for index in range(count)]
    picture = draw_panoptic(np.full((height, width, 3), 9, np.uint8), ids, info, CATEGORIES)
    assert picture.shape[0] > height
    assert picture.shape[1] >= max(width, 200)


@pytest.mark.parametrize(
    ("image", "ids", "message"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), int), r"shape \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5), int), r"shape \(4, 5, 4\)"),
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), int), "float32"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), int), r"shape \(5, 4\).*shape \(4, 5\)"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.float32), "float32"),
        (np.zeros((0, 5, 3), np.uint8), np.zeros((0, 5), int), r"shape \(0, 5, 3\)"),
    ],
)
def test_draw_wrong_input_names_what_was_seen(image, ids, message):
    with pytest.raises(ValueError, match=message):
        draw_panoptic(image, ids, [], CATEGORIES)


def test_side_by_side_aligns_panels_of_one_picture():
    small = np.full((30, 40, 3), 50, np.uint8)
    large = np.full((75, 80, 3), 200, np.uint8)  # Twice the size, with a legend below.
    picture = side_by_side([("", small), ("", large)])
    assert picture.shape[1] > 160
    rows_of_small = np.flatnonzero((picture == 50).all(axis=2).any(axis=1))
    rows_of_large = np.flatnonzero((picture == 200).all(axis=2).any(axis=1))
    assert len(rows_of_small) == 60  # Enlarged to the same width ...
    assert rows_of_small[0] == rows_of_large[-1] - 74  # ... and flush with the other at the top.


def test_side_by_side_writes_titles():
    panel = np.full((60, 200, 3), 255, np.uint8)
    titled, untitled = (side_by_side([(title, panel)]) for title in ("truth", ""))
    assert titled.shape == untitled.shape
    assert untitled.min() == 255
    assert titled.min() < 100


def test_side_by_side_without_panels_says_so():
    with pytest.raises(ValueError, match="no panels"):
        side_by_side([])


def test_draw_with_ranks_shares_shades_in_any_order(scene):
    image, ids, info = scene
    expected = draw_panoptic(image, ids, info, CATEGORIES)
    ranks = {3: 0, 5: 1, 7: 0}
    picture = draw_panoptic(image, ids, [info[1], info[2], info[0]], CATEGORIES, ranks)
    for row, column in ((110, 60), (110, 360), (20, 20)):
        assert (picture[row, column] == expected[row, column]).all()


def test_draw_without_legend_has_the_size_of_the_picture(scene):
    whole = draw_panoptic(*scene, CATEGORIES)
    assert (draw_panoptic(*scene, CATEGORIES, with_legend=False) == whole[:480]).all()


def test_draw_without_labels_has_the_segments_alone(scene):
    picture = draw_panoptic(*scene, CATEGORIES, with_labels=False)
    assert picture[100:400, 50:250].min() > 75, "the box of a label darkens the picture"
    assert picture.shape == draw_panoptic(*scene, CATEGORIES).shape


def test_draw_contours_alone_leaves_the_inside(scene):
    picture = draw_on_picture(*scene, CATEGORIES, with_labels=False, style=Style.CONTOURS)
    assert (picture[250, 150] == 100).all()
    assert (picture[380, 50] == GREEN).all()
    assert (picture[20, 300] == 100).all()
    assert (picture[450:] == 100).all(), "void has no contour"


def test_draw_boxes_are_those_of_things(scene):
    image, ids, info = scene
    picture = draw_on_picture(image, ids, info, CATEGORIES, with_labels=False, style=Style.BOXES)
    assert (picture[100, 50:250] == GREEN).all()
    assert (picture[399, 50:250] == GREEN).all()
    assert (picture[100:400, 249] == GREEN).all()
    assert (picture[110:390, 60:240] == 100).all()
    assert (picture[0] == 100).all(), "stuff has no box"
    assert (image == 100).all()


def test_draw_boxes_label_things_alone(scene):
    with_labels, without = (
        draw_on_picture(*scene, CATEGORIES, with_labels=flag, style=Style.BOXES).astype(int) for flag in (True, False)
    )
    changed = (with_labels != without).any(axis=2)
    assert changed[100:400, 50:250].any()
    assert not changed[:95].any()


@pytest.mark.parametrize("style", Style)
def test_draw_without_segments_keeps_the_picture_in_every_style(scene, style):
    image, ids, _ = scene
    assert (draw_on_picture(image, ids, [], CATEGORIES, style=style) == image).all()
    assert (draw_panoptic(image, torch.zeros_like(ids), [], CATEGORIES, style=style)[:480] == image).all()


@pytest.mark.parametrize("style", Style)
def test_draw_on_picture_keeps_the_size_of_small_pictures(style):
    ids = np.zeros((7, 9), int)
    ids[2:5, 3:6] = 1
    info = [{"id": 1, "category_id": 0, "score": 0.5}]
    assert draw_on_picture(np.zeros((7, 9, 3), np.uint8), ids, info, CATEGORIES, style=style).shape == (7, 9, 3)


@pytest.mark.parametrize("style", Style)
@pytest.mark.parametrize("pixels", [1, 640 * 7, 640 * 101])
def test_draw_in_strips_gives_the_same_picture(scene, monkeypatch, style, pixels):
    whole = draw_on_picture(*scene, CATEGORIES, style=style)
    monkeypatch.setattr(draw, "PIXELS_PER_STRIP", pixels)
    assert (draw_on_picture(*scene, CATEGORIES, style=style) == whole).all()


@given(st.lists(st.integers(-5, 60), min_size=0, max_size=8, unique=True), st.integers(0, 2**32 - 1))
def test_index_of_ids_equals_a_plain_loop(known, seed):
    ids = np.random.default_rng(seed).integers(-5, 61, (6, 7))
    expected = [[known.index(value) if value in known else len(known) for value in row] for row in ids.tolist()]
    assert index_of_ids(ids, known).tolist() == expected


@pytest.mark.parametrize("style", list(Style))
def test_style_may_be_given_by_its_name(scene, style):
    by_name = draw_panoptic(*scene, CATEGORIES, style=str(style))
    assert np.array_equal(by_name, draw_panoptic(*scene, CATEGORIES, style=style))
