"""Parts of the page on their own: axes and names of the chart, shades and drawings."""

from __future__ import annotations

import re

import numpy as np
import pytest
from page_samples import CAR, SKY, segments

from panoptic_segformer.comparison.page.chart import Axis, quality_chart
from panoptic_segformer.comparison.page.drawing import dataset_categories, draw_disagreement, shade_ranks, shrink
from panoptic_segformer.comparison.results import ModelResult, Prediction


@pytest.mark.parametrize("values", [[3.0], [0.0], [0.0, 0.0], [41.3, 41.4], [0.02, 950.0], [99.0, 100.0]])
@pytest.mark.parametrize("from_zero", [True, False])
def test_axis_holds_all_values_between_few_round_ticks(values, from_zero):
    axis = Axis(values, 50, 600, from_zero)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= min(values)
    assert max(values) <= ticks[-1] + 1e-9
    assert all(50 <= axis.position(value) <= 600 for value in values)


def test_shades_follow_the_true_instance_and_new_things_get_new_shades():
    ids = np.zeros((4, 12), np.int32)
    ids[:, 0:4], ids[:, 4:8], ids[:, 8:10], ids[:, 10:] = 1, 2, 3, 4
    truth = Prediction(np.where(ids > 2, 0, ids), segments(CAR, CAR))
    found = Prediction(ids, [segments(CAR, CAR, CAR, SKY)[index] for index in (2, 1, 3, 0)])
    assert shade_ranks(found, truth) == {1: 0, 2: 1, 3: 2, 4: 0}
    assert shade_ranks(truth, truth) == {1: 0, 2: 1}


def test_disagreement_is_drawn_brighter_than_any_picture():
    white = np.full((4, 6, 3), 255, np.uint8)
    shares = np.zeros((4, 6))
    shares[:, 3:] = 1
    drawing = draw_disagreement(white, shares).astype(float).mean(axis=2)
    assert drawing[:, 3:].min() > 1.5 * drawing[:, :3].max()


@pytest.mark.parametrize(("size", "small"), [((1000, 500), (640, 320)), ((30, 40), (30, 40)), ((3000, 1), (640, 1))])
def test_shrink_keeps_the_shape_and_never_enlarges(size, small):
    assert shrink(np.zeros((*size, 3), np.uint8)).shape == (*small, 3)


def test_categories_keep_the_ids_of_the_dataset():
    categories = dataset_categories([SKY, CAR])
    assert (categories.thing_ids, categories.stuff_ids) == ((7,), (180,))
    assert (categories.thing_names, categories.stuff_colors) == (("car",), ((60, 120, 220),))


def test_names_in_the_chart_hide_neither_each_other_nor_points_nor_ticks():
    places = {
        "best": (10, 60),
        "same": (10, 60),
        "slow": (40, 0),
        "slower": (41, 0.1),
        "another": (44, 0.2),
        "e": (80, 1),
    }
    models = [ModelResult(name, costs={"latency_ms": x}, qualities={"PQ": y}) for name, (x, y) in places.items()]
    chart = quality_chart(models)
    points = [tuple(map(float, found)) for found in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart)]
    labels = [
        (float(x), float(y) - 5, 8 * len(name) * (-1 if anchor == "end" else 1))
        for x, y, anchor, name in re.findall(
            r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)" class="name">(\w+)<', chart
        )
    ]
    assert len(points) == len(labels) == len(places)
    boxes = [(min(x, x + width), max(x, x + width), y) for x, y, width in labels]
    for index, (left, right, y) in enumerate(boxes):
        assert 0 <= y <= 292 + 1e-6, "the axis is at 292, its numbers are below"
        others = [*boxes[:index], *boxes[index + 1 :], *((x, x, y) for x, y in points)]
        assert not [other for start, end, other in others if left < end and start < right and abs(other - y) < 12]
