"""Heat-maps of centres, drawn thing by thing and cell by cell as the truth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panoptic_fcn.heat_maps import HeatMapOptions, draw_heat_map, gaussian_radii

OPTIONS = HeatMapOptions(min_overlap=0.7, sigmas_per_diameter=3)
SHAPE = (2, 6, 9)


def expected_radius(width: float, height: float, overlap: float) -> int:
    equations = [
        (1, width + height, width * height * (1 - overlap) / (1 + overlap)),
        (4, 2 * (width + height), width * height * (1 - overlap)),
        (4 * overlap, -2 * overlap * (width + height), width * height * (overlap - 1)),
    ]
    return max(0, int(min((b + math.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in equations)))


def expected_heat_map(things, shape, options):
    heat_map = torch.zeros(shape)
    _, rows, columns = shape
    for label, (x, y), (width, height) in things:
        radius = expected_radius(width, height, options.min_overlap)
        sigma = (2 * radius + 1) / options.sigmas_per_diameter
        x, y = min(max(int(x), 0), columns), min(max(int(y), 0), rows)
        for row in range(max(0, y - radius), min(rows, y + radius + 1)):
            for column in range(max(0, x - radius), min(columns, x + radius + 1)):
                value = math.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * sigma**2))
                heat_map[label, row, column] = max(heat_map[label, row, column].item(), value)
    return heat_map


def tensors(things):
    classes, centers, sizes = zip(*things, strict=True)
    return torch.tensor(classes), torch.tensor(centers), torch.tensor(sizes)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3.5, 2.25), (10, 10), (40, 7), (300, 200)])
def test_radius_is_the_historical_one(width, height):
    radius = gaussian_radii(torch.tensor([[width, height]], dtype=torch.float64), 0.7)
    assert radius.tolist() == [expected_radius(width, height, 0.7)]


# Quarters, so that no rounding decides where a fraction is cut off.
quarters = st.integers(0, 40).map(lambda n: n / 4)
thing = st.tuples(st.integers(0, 1), st.tuples(quarters, quarters), st.tuples(quarters, quarters))


@given(st.lists(thing, min_size=1, max_size=4))
def test_heat_map_is_the_greatest_of_all_gaussians(things):
    drawn = draw_heat_map(*tensors(things), SHAPE, OPTIONS)
    torch.testing.assert_close(drawn, expected_heat_map(things, SHAPE, OPTIONS), atol=1e-6, rtol=1e-5)


def test_centre_is_one_and_other_classes_are_zero():
    drawn = draw_heat_map(*tensors([(1, (4.9, 2.2), (5.0, 5.0))]), SHAPE, OPTIONS)
    assert drawn[1, 2, 4] == 1
    assert drawn[0].count_nonzero() == 0


def test_centre_one_cell_outside_is_drawn_as_far_as_it_is_inside():
    drawn = draw_heat_map(*tensors([(0, (9.0, 3.0), (6.0, 6.0))]), SHAPE, OPTIONS)
    assert 0 < drawn[0, 3, 8] < 1


def test_nothing_to_draw_gives_zeros():
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), torch.zeros(0, 2)
    assert torch.equal(draw_heat_map(*nothing, SHAPE, OPTIONS), torch.zeros(SHAPE))
