from __future__ import annotations

import numpy as np
import pytest

from panoptic_segformer.visualization.queries import MOST_VIEWS, PANEL_SIDE, QueryView, draw_queries

RED = (250, 0, 0)


def view(attention, location=()):
    return QueryView("cat 0.50", RED, np.asarray(attention, np.float32), location)


@pytest.mark.parametrize("size", [(30, 40), (1, 1), (900, 30), (480, 640)])
@pytest.mark.parametrize("number", [0, 1, 5, 40])
def test_panels_are_in_rows_of_four(size, number):
    image = np.full((*size, 3), 90, np.uint8)
    drawing = draw_queries(image, image, [view(np.ones((4, 5)))] * number)
    factor = PANEL_SIDE / max(size)
    panels = 1 + min(number, MOST_VIEWS)
    rows, columns = -(-panels // 4), min(panels, 4)
    assert drawing.shape[0] >= rows * round(size[0] * factor)
    assert columns * round(size[1] * factor) <= drawing.shape[1] <= columns * (round(size[1] * factor) + 40)


def test_heat_is_where_the_attention_is():
    image = np.full((480, 480, 3), 90, np.uint8)
    attention = np.zeros((8, 8))
    attention[:, 4:] = 3.0  # Unbounded, as the model's: shown as 1.
    panel = draw_queries(image, image, [view(attention)])[:, 500:]
    left, right = panel[200:300, 20:150].astype(int), panel[200:300, 330:450].astype(int)
    assert right.mean() > left.mean() + 80


def test_box_and_centre_have_the_colour_of_the_segment():
    image = np.full((480, 480, 3), 90, np.uint8)
    drawing = draw_queries(image, image, [view(np.zeros((8, 8)), (0.5, 0.5, 0.5, 0.25))])
    rows, columns = np.nonzero((drawing == RED).all(axis=2)[:, :490])
    assert columns.max() - columns.min() == pytest.approx(240, abs=2)
    assert rows.max() - rows.min() == pytest.approx(120, abs=2)
    alone = draw_queries(image, image, [view(np.zeros((8, 8)), (0.5, 0.5))])
    assert 0 < (alone == RED).all(axis=2).sum() < (drawing == RED).all(axis=2).sum()


def test_queries_change_neither_picture():
    image, overlay = (np.full((48, 64, 3), level, np.uint8) for level in (90, 120))
    draw_queries(image, overlay, [view(np.ones((3, 4)), (0.5, 0.5, 0.5, 0.5))])
    assert (image == 90).all()
    assert (overlay == 120).all()
