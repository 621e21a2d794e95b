"""The definitions give what the formula says."""

from __future__ import annotations

import math

import pytest
import torch
from operator_inputs import FORMS, Inputs, PlainInputs, cast, define, make_inputs, run


def pixel_of_sample(inputs: Inputs, index: tuple[int, ...]) -> tuple[float, float]:
    """Place point p of level l in pixels (x, y): 0 is the centre of the first."""
    b, q, _, level, _ = index
    height, width = inputs.spatial_shapes[level]
    if isinstance(inputs, PlainInputs):
        x, y = inputs.sampling_locations[index].tolist()
        return x * width - 0.5, y * height - 0.5
    offset_x, offset_y = inputs.sampling_offsets[index].tolist()
    reference = inputs.reference_points[b, q, level].tolist()
    if len(reference) == 2:
        return reference[0] * width + offset_x - 0.5, reference[1] * height + offset_y - 0.5
    points = inputs.sampling_offsets.shape[4]
    centre_x, centre_y, box_width, box_height = reference
    x = centre_x + offset_x * box_width * 0.5 / points
    y = centre_y + offset_y * box_height * 0.5 / points
    return x * width - 0.5, y * height - 0.5


def attention_of(inputs: Inputs) -> torch.Tensor:
    if isinstance(inputs, PlainInputs):
        return inputs.attention_weights
    powers = inputs.attention_logits.exp()
    return powers / powers.sum((-2, -1), keepdim=True)


def direct_sum(inputs: Inputs) -> torch.Tensor:
    """Sum the samples by plain loops, from the formula, without grid_sample."""
    value, shapes = inputs[:2]
    attention = attention_of(inputs)
    batch, _, heads, channels = value.shape
    output = value.new_zeros(batch, attention.shape[1], heads, channels)
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    for index in torch.cartesian_prod(*(torch.arange(size) for size in attention.shape)).tolist():
        b, q, m, level, _ = index
        height, width = shapes[level]
        x, y = pixel_of_sample(inputs, tuple(index))
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    weight = (1 - abs(y - row)) * (1 - abs(x - column)) * attention[tuple(index)]
                    output[b, q, m] += weight * value[b, starts[level] + row * width + column, m]
    return output.flatten(2)


@pytest.mark.parametrize("form", FORMS)
def test_definition_equals_direct_sum_inside_and_outside(form):
    inputs = make_inputs(form)
    torch.testing.assert_close(define(inputs), direct_sum(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(form, dtype):
    half = cast(make_inputs(form), dtype)
    assert torch.equal(define(half), define(cast(half, torch.float32)).to(dtype))


def test_boxes_and_points_of_the_same_places_agree():
    points = make_inputs("points")
    sizes = torch.tensor(points.spatial_shapes, dtype=torch.float64).flip(-1)
    # A box of as many shares as a level has cells.
    boxes = (2 * points.sampling_offsets.shape[4] / sizes).expand_as(points.reference_points)
    same = points._replace(reference_points=torch.cat([points.reference_points, boxes], -1))
    torch.testing.assert_close(run(same), run(points), rtol=1e-12, atol=1e-12)
