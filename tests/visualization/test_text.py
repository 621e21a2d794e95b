from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from panoptic_segformer.visualization.text import (
    Label,
    LegendEntry,
    draw_labels,
    draw_legend,
    font_of_size,
    place_labels,
)

RED = (200, 30, 30)


def place(index_map, sizes):
    labels = [Label(index, f"label {index}") for index in range(len(sizes))]
    return place_labels(np.asarray(index_map), labels, sizes)


def test_place_labels_takes_the_widest_place_of_a_segment():
    index_map = np.ones((100, 200), int)
    index_map[45:55, 0:200] = 0  # A thin bar ...
    index_map[20:80, 120:180] = 0  # ... with a square on it.
    (center,) = place(index_map, [(10, 30)])
    assert center == pytest.approx((50, 150), abs=2)


def test_place_labels_moves_a_label_away_from_one_placed_before():
    index_map = np.zeros((100, 200), int)
    index_map[45:55, 90:110] = 1
    first, second = place(index_map, [(20, 100), (8, 40)])
    assert first[0] < 40 or first[0] > 60 or abs(first[1] - 100) > 60 or second is None
    index_map[:] = 0
    labels = [Label(0, "a"), Label(0, "b")]
    one, other = place_labels(index_map, labels, [(20, 80), (20, 80)])
    assert abs(one[0] - other[0]) >= 20 or abs(one[1] - other[1]) >= 80


def test_place_labels_leaves_out_segments_lower_than_the_text():
    index_map = np.zeros((60, 60), int)
    index_map[10:15, 5:55] = 1
    assert place(index_map, [(12, 30), (12, 30)])[1] is None
    assert place(index_map, [(12, 30), (5, 30)])[1] is not None


def test_place_labels_leaves_out_what_is_larger_than_the_picture_or_not_in_it():
    assert place(np.zeros((1, 1), int), [(15, 60)]) == [None]
    assert place(np.zeros((50, 50), int), [(10, 60), (10, 20)]) == [None, None]


@given(st.integers(0, 2**32 - 1), st.integers(20, 700), st.integers(20, 700), st.integers(1, 12))
def test_place_labels_boxes_stay_inside_and_apart(seed, height, width, count):
    random = np.random.default_rng(seed)
    index_map = np.full((height, width), count)
    for index in range(count):
        top, left = random.integers(0, height), random.integers(0, width)
        index_map[top : top + random.integers(1, height), left : left + random.integers(1, width)] = index
    sizes = [(int(random.integers(5, 20)), int(random.integers(5, 120))) for _ in range(count)]
    placed = [(c, s) for c, s in zip(place(index_map, sizes), sizes, strict=True) if c is not None]
    for (y, x), (box_height, box_width) in placed:
        assert box_height / 2 <= y <= height - box_height / 2
        assert box_width / 2 <= x <= width - box_width / 2
    for ((y1, x1), (h1, w1)), ((y2, x2), (h2, w2)) in combinations(placed, 2):
        assert abs(y1 - y2) >= (h1 + h2) / 2 or abs(x1 - x2) >= (w1 + w2) / 2


def labelled(label):
    picture = Image.new("RGB", (640, 200), (200, 200, 200))
    draw_labels(picture, np.zeros((200, 640), int), [label], 13)
    return np.asarray(picture)


def test_draw_labels_writes_the_first_synonym_and_the_score():
    assert (labelled(Label(0, "car, auto, automobile", 0.5)) == labelled(Label(0, "car", 0.5))).all()
    assert (labelled(Label(0, "car", 0.5)) != labelled(Label(0, "car", 0.6))).any()
    assert (labelled(Label(0, "car", 0.5)) != labelled(Label(0, "car"))).any()


def test_draw_labels_cuts_long_names_but_not_the_score():
    columns = np.flatnonzero((labelled(Label(0, "name " * 50, 0.25)) != 200).any(axis=(0, 2)))
    assert 100 < len(columns) < 14 * 13
    assert (labelled(Label(0, "name " * 50, 0.25)) != labelled(Label(0, "name " * 50, 0.26))).any()


def entries(count):
    return [LegendEntry(f"class number {index}", [RED] * (index + 1)) for index in range(count)]


@pytest.mark.parametrize("width", [120, 200, 640, 3000])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_draw_legend_any_number_of_classes_fits_the_width(count, width):
    panel = draw_legend(entries(count), width, 13)
    assert panel.width == width
    pixels = np.asarray(panel)
    assert (pixels.min(axis=2) < 200).any()  # Something is written ...
    border = np.concatenate([pixels[:, :2], pixels[:, -2:]], axis=1)
    assert (border == 255).all()  # ... and nothing is cut off at the sides ...
    assert (pixels[[0, 1, -2, -1]] == 255).all()  # ... or above and below.


def test_draw_legend_uses_columns_where_there_is_room():
    narrow, wide = draw_legend(entries(60), 200, 13), draw_legend(entries(60), 2000, 13)
    assert wide.height < narrow.height / 5


def test_draw_legend_shows_every_class_color():
    colors = [(250, 4 * index, 0) for index in range(60)]
    panel = np.asarray(draw_legend([LegendEntry("name", [color]) for color in colors], 500, 13))
    assert {tuple(pixel) for pixel in panel.reshape(-1, 3).tolist()} >= set(colors)


def test_draw_legend_swatch_shows_the_colors_of_the_segments():
    shades = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    panel = np.asarray(draw_legend([LegendEntry("person", shades)], 200, 13))
    assert {tuple(pixel) for pixel in panel.reshape(-1, 3).tolist()} >= set(shades)


def test_draw_legend_cuts_a_name_that_is_too_long():
    for width in (150, 2000):
        panel = np.asarray(draw_legend([LegendEntry("name " * 50, [RED])], width, 13))
        assert panel.shape == np.asarray(draw_legend([LegendEntry("name", [RED])], width, 13)).shape
        assert (panel[:, -2:] == 255).all()
        assert (panel[:, 20 * 13 :] == 255).all()


def test_font_of_size_draws_letters_beyond_ascii():
    font = font_of_size(20)
    assert bytes(font.getmask("ž")) != bytes(font.getmask("\N{LATIN SMALL LETTER Z}"))
