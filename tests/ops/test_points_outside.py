"""Points that read nothing, or not all of their neighbours, whatever lies there in memory."""

from __future__ import annotations

import math

import pytest
import torch
from operator_inputs import DEVICES, FORMS, Inputs, cast, define, make_inputs, output_and_gradients, run

from compiled import require_compiled

PLACES = {"plain": "sampling_locations", "points": "sampling_offsets", "boxes": "sampling_offsets"}
SCORES = {"plain": "attention_weights", "points": "attention_logits", "boxes": "attention_logits"}


def silence(inputs: Inputs, form: str) -> Inputs:
    """Let values count as zero where the first point of every level reads, and keep the weights of the others."""
    if form == "plain":
        weights = inputs.attention_weights.clone()
        weights[..., 0] = 0
        return inputs._replace(attention_weights=weights)
    offsets = inputs.sampling_offsets.clone()
    offsets[..., 0, :] = 1e3  # Far outside, and finite.
    return inputs._replace(sampling_offsets=offsets)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("coordinate", [math.nan, math.inf, -math.inf, 6e4, -6e4])
def test_point_far_outside_or_not_a_number_counts_as_zero(device, form, dtype, coordinate):
    require_compiled(device)
    inputs = cast(make_inputs(form, device=device, channels=9), dtype)
    places, scores = PLACES[form], SCORES[form]
    away = inputs._replace(**{places: getattr(inputs, places).clone()})
    getattr(away, places)[:, :, :, :, 0, 1] = coordinate
    actual, expected = (output_and_gradients(run, x) for x in (away, silence(inputs, form)))
    assert not actual[f"grad {places}"][:, :, :, :, 0].any()
    if form == "plain":
        assert not actual[f"grad {scores}"][..., 0].any()
    for name in expected.keys() - {f"grad {places}", f"grad {scores}"}:
        torch.testing.assert_close(actual[name], expected[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("coordinate", [-0.6, 1.6])
def test_point_outside_a_small_level_counts_as_zero(device, coordinate):
    require_compiled(device)
    inputs = make_inputs(spatial_shapes=[(5, 5), (6, 6)], device=device)
    inputs.sampling_locations[..., 0] = coordinate
    assert not any(tensor.any() for tensor in output_and_gradients(run, inputs).values())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("number", [math.nan, math.inf, 1e300])
@pytest.mark.parametrize(("form", "position"), [("points", 0), ("boxes", 1), ("boxes", 2)])
def test_reference_that_is_not_finite_silences_its_points_alone(device, form, position, number):
    require_compiled(device)
    inputs = make_inputs(form, device=device)
    inputs.reference_points[0, 0, 1, position] = number
    results = output_and_gradients(run, inputs)
    assert all(tensor.isfinite().all() for tensor in results.values())
    assert not results["grad sampling_offsets"][0, 0, :, 1].any()
    assert not results["grad reference_points"][0, 0, 1].any()
    for name, tensor in output_and_gradients(define, inputs).items():
        torch.testing.assert_close(results[name], tensor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", ["points", "boxes"])
def test_logit_that_is_not_a_number_shows_in_its_query_and_head_alone(device, form):
    require_compiled(device)
    inputs = make_inputs(form, device=device, batch=1)
    inputs.attention_logits[0, 2, 1, 0, 0] = math.nan
    output = run(inputs).unflatten(-1, (2, -1))
    assert output[0, 2, 1].isnan().all()
    output[0, 2, 1] = 0
    assert output.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", ["points", "boxes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_logits_do_not_overflow(device, form, dtype):
    require_compiled(device)
    inputs = cast(make_inputs(form, device=device), dtype)
    inputs = inputs._replace(attention_logits=inputs.attention_logits * 1e4)
    inputs.attention_logits[:, :, :, 1] = -math.inf  # A level that is switched off.
    expected = output_and_gradients(define, inputs)
    for name, tensor in output_and_gradients(run, inputs).items():
        assert tensor.isfinite().all(), name
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [3, 32])
def test_reads_only_the_touched_levels_of_value(device, form, channels):
    """What surrounds value in memory, and a level without samples, is not a number: reading it would show."""
    require_compiled(device)
    inputs = make_inputs(
        form, [(3, 4), (2, 2), (1, 3)], channels=channels, queries=50, dtype=torch.float32, device=device
    )
    size = inputs.value.numel()
    memory = torch.full((3 * size,), math.nan, device=device)
    value = memory[size : 2 * size].view_as(inputs.value)
    value.copy_(inputs.value)
    value[:, 12:16] = math.nan
    places = getattr(inputs, PLACES[form]) * 4 - 2  # From far outside on one side to far outside on the other.
    places[:, :, :, 1] = 1e3
    results = output_and_gradients(run, inputs._replace(**{"value": value, PLACES[form]: places}))
    assert all(tensor.isfinite().all() for tensor in results.values())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [3, 32])
def test_point_on_the_border_reads_only_pixels_within_reach(device, form, channels):
    """Half a pixel outside a corner of the level its pixel alone is read: the others are not a number."""
    require_compiled(device)
    inputs = make_inputs(form, [(3, 4)], batch=1, channels=channels, queries=4, points=1, device=device)
    corners = torch.tensor([0, 3, 8, 11], device=device)
    value = torch.full_like(inputs.value, math.nan)
    value[:, corners] = inputs.value[:, corners]
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=value.dtype, device=device)
    if form == "plain":
        border = inputs._replace(value=value, sampling_locations=places.view(1, 4, 1, 1, 1, 2).repeat(1, 1, 2, 1, 1, 1))
        weights = inputs.attention_weights[:, :, :, 0]  # [B, Q, M, P], P = 1
    else:
        reference = inputs.reference_points.clone()
        reference[..., :2] = places.view(1, 4, 1, 2)
        offsets = torch.zeros_like(inputs.sampling_offsets)
        border = inputs._replace(value=value, reference_points=reference, sampling_offsets=offsets)
        weights = 1  # The only sample has all the attention.
    torch.testing.assert_close(run(border), (value[:, corners] * weights / 4).flatten(2))
    expected = output_and_gradients(define, border)
    for name, tensor in output_and_gradients(run, border).items():
        assert tensor.isfinite().all(), name
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)
