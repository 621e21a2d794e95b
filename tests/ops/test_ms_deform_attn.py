"""The compiled operator gives what the definition gives, on every device, dtype and odd shape."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_inputs import DEVICES, Inputs, make_inputs, output_and_gradients, require_compiled

from panoptic_segformer.ops import ms_deform_attn, ms_deform_attn_reference

# One rounding of the result; sums are in float32 or better, so it is the only one that counts.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def assert_agree(inputs: Inputs, dtype: torch.dtype) -> None:
    """Compare with the definition in float64, given the same (rounded) inputs."""
    expected = output_and_gradients(ms_deform_attn_reference, inputs.to(torch.float64))
    actual = output_and_gradients(ms_deform_attn, inputs, dtype=torch.float64)
    for name, truth in expected.items():
        scale = max(1.0, truth.abs().max().item()) if truth.numel() else 1.0
        torch.testing.assert_close(
            actual[name], truth, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def direct_sum(inputs: Inputs) -> torch.Tensor:
    """Sum the samples by plain loops, from the formula, without grid_sample."""
    value, shapes, locations, weights = inputs
    batch, _, heads, channels = value.shape
    output = value.new_zeros(batch, locations.shape[1], heads, channels)
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    for index in torch.cartesian_prod(*(torch.arange(size) for size in weights.shape)).tolist():
        b, q, m, level, _ = index
        height, width = shapes[level]
        x, y = (locations[tuple(index)] * torch.tensor([width, height]) - 0.5).tolist()
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    weight = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[tuple(index)]
                    output[b, q, m] += weight * value[b, starts[level] + row * width + column, m]
    return output.flatten(2)


def test_reference_equals_direct_sum_inside_and_outside():
    inputs = make_inputs()
    torch.testing.assert_close(ms_deform_attn_reference(*inputs), direct_sum(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 5, 8, 32, 43, 72])
@pytest.mark.parametrize(
    ("dtype", "location_dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ],
)
def test_agrees_with_reference_for_every_dtype(device, channels, dtype, location_dtype):
    require_compiled(device)
    inputs = make_inputs(channels=channels, queries=20, points=4, device=device).to(dtype, location_dtype)
    assert_agree(inputs, dtype)
    assert ms_deform_attn(*inputs).dtype == dtype


# Multiples of 1/64 are exact in every step: at a kink of the interpolation both backends take the same side.
coordinates = st.one_of(
    st.integers(-96, 160).map(lambda n: n / 64),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e300]),
)


@st.composite
def odd_inputs(draw) -> Inputs:
    side = st.integers(1, 4)
    inputs = make_inputs(
        draw(st.lists(st.tuples(side, side), max_size=3)),
        batch=draw(st.integers(0, 2)),
        heads=draw(st.integers(1, 3)),
        channels=draw(st.sampled_from([1, 3, 8, 9, 33])),
        queries=draw(st.integers(0, 3)),
        points=draw(st.integers(0, 2)),
        seed=draw(st.integers(0, 99)),
    )
    locations = inputs.sampling_locations.view(-1)
    if locations.numel():
        replaced = draw(st.dictionaries(st.integers(0, locations.numel() - 1), coordinates, max_size=8))
        for position, coordinate in replaced.items():
            locations[position] = coordinate
    return inputs


@settings(max_examples=80, deadline=None, derandomize=True)
@given(inputs=odd_inputs())
def test_agrees_with_reference_for_odd_shapes_and_locations(inputs):
    require_compiled()
    assert_agree(inputs, torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shapes", [[(4, 3), (1, 1)], [(1, 5), (5, 1)]])
def test_gradcheck(device, shapes):
    require_compiled(device)
    inputs = make_inputs(shapes, batch=1, channels=3, queries=3, points=2, device=device)
    value, _, locations, weights = inputs
    tensors = [tensor.requires_grad_() for tensor in (value, locations, weights)]

    def operator(value, locations, weights):
        return ms_deform_attn(value, shapes, locations, weights)

    # Atomic additions on a GPU come in any order.
    assert torch.autograd.gradcheck(operator, tensors, nondet_tol=0.0 if device == "cpu" else 1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("coordinate", [math.nan, math.inf, -math.inf, 6e4, -6e4, -0.6, 1.6])
def test_point_far_outside_or_not_a_number_counts_as_zero(device, dtype, coordinate):
    require_compiled(device)
    inputs = make_inputs(device=device, channels=9).to(dtype)
    away = inputs._replace(sampling_locations=inputs.sampling_locations.clone())
    away.sampling_locations[:, :, :, :, 0, 1] = coordinate
    silent = inputs._replace(attention_weights=inputs.attention_weights.clone())
    silent.attention_weights[..., 0] = 0
    actual, expected = (output_and_gradients(ms_deform_attn, x) for x in (away, silent))
    torch.testing.assert_close(actual["output"], expected["output"])
    torch.testing.assert_close(actual["grad value"], expected["grad value"])
    assert not actual["grad locations"][:, :, :, :, 0].any()
    assert not actual["grad weights"][..., 0].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [3, 32])
def test_reads_only_the_touched_levels_of_value(device, channels):
    """What surrounds value in memory, and a level without samples, is not a number: reading it would show."""
    require_compiled(device)
    inputs = make_inputs([(3, 4), (2, 2), (1, 3)], channels=channels, queries=50, dtype=torch.float32, device=device)
    size = inputs.value.numel()
    memory = torch.full((3 * size,), math.nan, device=device)
    value = memory[size : 2 * size].view_as(inputs.value)
    value.copy_(inputs.value)
    value[:, 12:16] = math.nan
    locations = inputs.sampling_locations * 4 - 2  # From far outside on one side to far outside on the other.
    locations[:, :, :, 1] = 2.5
    results = output_and_gradients(ms_deform_attn, inputs._replace(value=value, sampling_locations=locations))
    assert all(tensor.isfinite().all() for tensor in results.values())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [3, 32])
def test_point_on_the_border_reads_only_pixels_within_reach(device, channels):
    """Half a pixel outside a corner of the level its pixel alone is read: the others are not a number."""
    require_compiled(device)
    inputs = make_inputs([(3, 4)], batch=1, channels=channels, queries=4, points=1, device=device)
    corners = torch.tensor([0, 3, 8, 11], device=device)
    value = torch.full_like(inputs.value, math.nan)
    value[:, corners] = inputs.value[:, corners]
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=value.dtype, device=device)
    locations = places.view(1, 4, 1, 1, 1, 2).expand_as(inputs.sampling_locations)
    border = inputs._replace(value=value, sampling_locations=locations)
    weights = inputs.attention_weights[:, :, :, 0]  # [B, Q, M, P], P = 1
    torch.testing.assert_close(ms_deform_attn(*border), (value[:, corners] * weights / 4).flatten(2))
    expected = output_and_gradients(ms_deform_attn_reference, border)
    for name, tensor in output_and_gradients(ms_deform_attn, border).items():
        assert tensor.isfinite().all(), name
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_accepts_inputs_that_are_not_contiguous(device):
    require_compiled(device)
    inputs = make_inputs(device=device, channels=6)
    strided = Inputs(
        inputs.value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        inputs.spatial_shapes,
        inputs.sampling_locations.transpose(0, 5).contiguous().transpose(0, 5),
        inputs.attention_weights.transpose(1, 4).contiguous().transpose(1, 4),
    )
    assert not any(tensor.is_contiguous() for tensor in strided if torch.is_tensor(tensor))
    expected = output_and_gradients(ms_deform_attn, inputs)
    for name, tensor in output_and_gradients(ms_deform_attn, strided).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)
    # The gradient of a sum is one number, expanded.
    value = inputs.value.requires_grad_()
    ms_deform_attn(value, *inputs[1:]).sum().backward()
    assert value.grad.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("as_tensor_on", ["cpu", "same device"])
def test_level_sizes_may_be_a_tensor(device, as_tensor_on):
    require_compiled(device)
    inputs = make_inputs(device=device)
    shapes = torch.tensor(inputs.spatial_shapes, device="cpu" if as_tensor_on == "cpu" else device)
    expected = ms_deform_attn(*inputs)
    assert torch.equal(ms_deform_attn(*inputs._replace(spatial_shapes=shapes)), expected)
    assert torch.equal(ms_deform_attn_reference(*inputs._replace(spatial_shapes=shapes)).round(decimals=9),
                       expected.round(decimals=9))  # fmt: skip


def test_results_do_not_depend_on_the_number_of_threads():
    require_compiled()
    inputs = make_inputs([(16, 20), (8, 10)], heads=4, channels=32, queries=200, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = output_and_gradients(ms_deform_attn, inputs)
        for count in (2, 3, 8):
            torch.set_num_threads(count)
            for name, tensor in output_and_gradients(ms_deform_attn, inputs).items():
                assert torch.equal(tensor, expected[name]), f"{name} differs with {count} threads"
    finally:
        torch.set_num_threads(threads)
