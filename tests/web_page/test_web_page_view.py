from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from panoptic_segformer.inference.result import PanopticResult
from panoptic_segformer.visualization import Style, draw_panoptic
from panoptic_segformer.web_page.view import DRAWINGS, NAMED, PLAIN, for_display, segment_paths, view_markup
from results_to_show import CATEGORIES, halves

OVERLAY = "overlay"
HOSTILE = "<b>ball & `${1}`</b>"


class Parts(HTMLParser):
    """The attributes of a view's elements, and the words of its table's cells."""

    def __init__(self, markup: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(markup)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._in_cell = tag == "td"

    def handle_endtag(self, tag):
        self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.cells.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def rows(self):
        return [self.cells[start : start + 5] for start in range(0, len(self.cells), 5)]

    def picture(self):
        (image,) = self.of("img")
        data = image["src"].removeprefix("data:image/jpeg;base64,")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def fill(path: str, size: tuple[int, int]) -> np.ndarray:
    """Pixels (h, w) bool of a path, filled by Pillow; each of them is inside exactly one rectangle."""
    canvas = Image.new("I", size[::-1])
    for rectangle in re.findall(r"M(\d+) (\d+)H(\d+)v(\d+)H(\d+)z", path):
        x0, y0, x1, height, back = map(int, rectangle)
        assert back == x0
        patch = Image.new("I", size[::-1])
        ImageDraw.Draw(patch).rectangle((x0, y0, x1 - 1, y0 + height - 1), fill=1)
        canvas = Image.fromarray(np.asarray(canvas) + np.asarray(patch))
    filled = np.asarray(canvas)
    assert filled.max(initial=0) <= 1
    return filled == 1


@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_paths_cover_exactly_their_segments(ids):
    paths = segment_paths(ids)
    assert set(paths) == set(np.unique(ids).tolist())
    for segment_id, path in paths.items():
        np.testing.assert_array_equal(fill(path, ids.shape), ids == segment_id)


def test_equal_runs_make_one_rectangle():
    assert segment_paths(np.full((40, 60), 7, np.int32)) == {7: "M0 0H60v40H0z"}


def test_rows_tell_name_kind_score_area_and_box():
    parts = Parts(view_markup(halves(thing_name=HOSTILE)))
    assert parts.rows == [
        ["sky", "stuff", "0.90", "24", "0, 0, 8, 3"],
        [HOSTILE, "thing", "0.40", "12", "0, 3, 4, 6"],
    ]
    rows = [attributes for attributes in parts.of("tr") if "data-segment" in attributes]
    assert [(row["data-segment"], row["data-tip"]) for row in rows] == [("2", "sky 0.90"), ("5", f"{HOSTILE} 0.40")]
    assert [path.get("data-segment") for path in parts.of("path")] == ["2", "5", None]
    assert parts.of("path")[-1]["d"] == "M4 3H8v3H4z"  # void
    assert parts.of("svg")[0]["viewbox"] == "0 0 8 6"


def test_names_become_no_markup():
    markup = view_markup(halves(thing_name=HOSTILE))
    assert "<b>" not in markup
    assert Parts(markup).of("b") == []


def test_picture_is_drawn_as_asked_for():
    result = halves(size=(120, 160))
    painted = {drawing: Parts(view_markup(result, drawing)).picture() for drawing in DRAWINGS}
    assert painted[PLAIN].shape == (120, 160, 3)
    assert np.abs(painted[PLAIN] - result.image).max() <= 3
    info = result.segments_info
    drawings = {
        NAMED: {"with_labels": True},
        OVERLAY: {"with_labels": False},
        "contours": {"style": Style.CONTOURS},
        "boxes": {"style": Style.BOXES},
    }
    assert set(drawings) == {*DRAWINGS} - {PLAIN}
    for drawing, arguments in drawings.items():
        expected = draw_panoptic(result.image, result.segment_ids, info, CATEGORIES, with_legend=False, **arguments)
        assert painted[drawing].shape == expected.shape
        assert np.abs(painted[drawing] - expected).mean() < 3
    assert np.abs(painted[NAMED] - painted[OVERLAY]).max() > 50


def test_segments_below_the_least_score_are_left_out():
    result = halves()
    parts = Parts(view_markup(result, OVERLAY, least_score=0.5))
    assert [row[0] for row in parts.rows] == ["sky"]
    assert [path.get("data-segment") for path in parts.of("path")] == ["2", None]
    assert "1 of 2 segments" in view_markup(result, OVERLAY, least_score=0.5)
    with_all = Parts(view_markup(result, OVERLAY)).picture()
    bottom = slice(with_all.shape[0] * 3 // 4, None), slice(0, with_all.shape[1] // 4)
    assert np.abs(parts.picture()[bottom] - 100).mean() < 5  # the picture's own grey
    assert np.abs(with_all[bottom] - 100).mean() > 20
    assert Parts(view_markup(result, least_score=0.95)).rows == []


def test_colours_stay_when_others_are_left_out():
    ids = np.repeat(np.int32([[1, 2]]), 30, axis=1).repeat(40, axis=0)
    records = [
        {"id": number, "category_id": 0, "isthing": True, "score": score, "area": 1200}
        for number, score in ((1, 0.3), (2, 0.8))
    ]
    result = PanopticResult.from_output(
        np.full((40, 60, 3), 100, np.uint8), {"panoptic_seg": (ids, records)}, CATEGORIES
    )
    before, after = (Parts(view_markup(result, OVERLAY, least)).picture() for least in (0, 0.5))
    height, width = before.shape[:2]
    inside = slice(height // 4, 3 * height // 4), slice(5 * width // 8, 7 * width // 8)
    assert np.abs(before[inside] - after[inside]).mean() < 2
    other = slice(height // 4, 3 * height // 4), slice(width // 8, 3 * width // 8)
    assert np.abs(before[inside] - before[other]).mean() > 10


def test_unknown_drawing_is_refused():
    with pytest.raises(ValueError, match="no drawing 'fog'.*overlay with names"):
        view_markup(halves(), "fog")


def test_result_without_segments():
    image = np.zeros((4, 5, 3), np.uint8)
    result = PanopticResult.from_output(image, {"panoptic_seg": (np.zeros((4, 5), np.int32), [])}, CATEGORIES)
    parts = Parts(view_markup(result))
    assert parts.rows == []
    assert [path.get("data-segment") for path in parts.of("path")] == [None]
    assert parts.of("img")[0]["alt"] == "no segments"


def test_large_pictures_are_shrunk_and_their_figures_kept():
    result = halves(size=(3000, 4001))
    shown = for_display(result)
    assert shown.image.shape == (960, 1280, 3)
    assert shown.segment_ids.shape == (960, 1280)
    assert shown.segment_ids.dtype == np.int32
    assert set(np.unique(shown.segment_ids)) == {0, 2, 5}
    assert all(segment.segment_ids is shown.segment_ids for segment in shown.segments)
    assert [(old.area, old.box) for old in result.segments] == [(new.area, new.box) for new in shown.segments]


def test_segment_that_vanishes_on_display_stays_in_the_table():
    ids = np.ones((1300, 2600), np.int32)
    ids[700, 1301] = 2
    records = [
        {"id": number, "category_id": category, "isthing": not category, "score": 0.5, "area": area}
        for number, category, area in ((1, 1, ids.size - 1), (2, 0, 1))
    ]
    image = np.zeros((*ids.shape, 3), np.uint8)
    shown = for_display(PanopticResult.from_output(image, {"panoptic_seg": (ids, records)}, CATEGORIES))
    assert 2 not in shown.segment_ids
    parts = Parts(view_markup(shown))
    assert [path.get("data-segment") for path in parts.of("path")] == ["1"]
    assert [row[0] for row in parts.rows] == ["sky", "ball"]


def test_small_pictures_stay_as_they_are():
    result = halves()
    assert for_display(result) is result
