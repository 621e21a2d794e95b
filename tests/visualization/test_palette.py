from __future__ import annotations

from itertools import combinations
from math import dist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.visualization.palette import class_styles, color_of_rank, segment_colors

GREEN, PINK, BLUE = (60, 170, 60), (220, 20, 120), (70, 130, 180)
CATEGORIES = Categories((0, 2), (1,), ("person", "car"), ("sky",), (GREEN, PINK), (BLUE,))
# Things and stuff share the id 1, as in Detectron2's "separated" metadata.
SEPARATED = Categories((0, 1), (1,), ("person", "car"), ("sky",), (GREEN, PINK), (BLUE,))
COLORS = st.tuples(*[st.integers(0, 255)] * 3)


def segments(*class_ids):
    return [{"id": 10 * (index + 1), "category_id": class_id} for index, class_id in enumerate(class_ids)]


def test_class_styles_have_names_and_dataset_colors():
    styles = class_styles(CATEGORIES)
    assert {key: (style.name, style.color) for key, style in styles.items()} == {
        (True, 0): ("person", GREEN),
        (True, 2): ("car", PINK),
        (False, 1): ("sky", BLUE),
    }


def test_class_styles_keep_things_and_stuff_of_one_id_apart():
    styles = class_styles(SEPARATED)
    assert {key: (style.name, style.color) for key, style in styles.items()} == {
        (True, 0): ("person", GREEN),
        (True, 1): ("car", PINK),
        (False, 1): ("sky", BLUE),
    }
    both = [{"id": 1, "category_id": 1, "isthing": True}, {"id": 2, "category_id": 1, "isthing": False}]
    assert segment_colors(both, styles) == {1: PINK, 2: BLUE}


def test_segment_colors_first_of_a_class_has_the_class_color():
    styles = class_styles(CATEGORIES)
    colors = segment_colors(segments(2, 1, 2, 0), styles)
    assert (colors[10], colors[20], colors[40]) == (PINK, BLUE, GREEN)
    assert colors[30] == color_of_rank(PINK, 1) != PINK


def test_segment_colors_do_not_depend_on_other_classes_or_ids():
    styles = class_styles(CATEGORIES)
    alone = list(segment_colors(segments(0, 0, 0), styles).values())
    among = list(segment_colors(segments(1, 0, 2, 0, 2, 0), styles).values())
    assert alone == [among[1], among[3], among[5]]


def test_color_of_rank_never_changes():
    """Pictures made today and next year are to be compared, so these values are part of the interface."""
    assert [color_of_rank(PINK, rank) for rank in range(4)] == [PINK, (141, 18, 162), (240, 124, 158), (234, 70, 224)]


def test_segment_colors_unknown_class_names_it():
    with pytest.raises(ValueError, match=r"segment 10 has category_id 7 .* things \[0, 2\] and stuff \[1\]"):
        segment_colors(segments(7), class_styles(CATEGORIES))
    with pytest.raises(ValueError, match=r"category_id 1 \(isthing True\)"):
        segment_colors([{"id": 1, "category_id": 1, "isthing": True}], class_styles(CATEGORIES))


@given(COLORS)
def test_color_of_rank_neighbours_in_rank_are_apart_for_any_class_color(color):
    shades = [color_of_rank(color, rank) for rank in range(8)]
    assert shades[0] == color
    assert all(0 <= part <= 255 for shade in shades for part in shade)
    assert min(dist(a, b) for a, b in combinations(shades, 2)) > 10
    assert len({color_of_rank(color, rank) for rank in range(60)}) == 60
