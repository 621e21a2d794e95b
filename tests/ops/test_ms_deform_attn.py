"""The compiled operators give what the definitions give, on every device, dtype, layout and odd shape."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_inputs import (
    DEVICES,
    FORMS,
    Inputs,
    cast,
    define,
    make_inputs,
    output_and_gradients,
    replace_tensors,
    run,
    tensor_names,
)

from compiled import require_compiled
from panoptic_segformer.ops import ms_deform_attn_fused

# One rounding of the result; sums are in float32 or better, so it is the only one that counts.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def assert_agree(inputs: Inputs, dtype: torch.dtype) -> None:
    """Compare with the definition in float64, given the same (rounded) inputs."""
    expected = output_and_gradients(define, cast(inputs, torch.float64))
    actual = output_and_gradients(run, inputs, dtype=torch.float64)
    for name, truth in expected.items():
        scale = max(1.0, truth.abs().max().item()) if truth.numel() else 1.0
        torch.testing.assert_close(
            actual[name], truth, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 5, 8, 32, 43, 72])
@pytest.mark.parametrize(
    ("dtype", "sample_dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ],
)
def test_agrees_with_definition_for_every_dtype(device, form, channels, dtype, sample_dtype):
    require_compiled(device)
    inputs = cast(make_inputs(form, channels=channels, queries=20, points=4, device=device), dtype, sample_dtype)
    assert_agree(inputs, dtype)
    assert run(inputs).dtype == dtype
    for name, gradient in output_and_gradients(run, inputs).items():
        if name != "output":
            assert gradient.dtype == getattr(inputs, name.removeprefix("grad ")).dtype, name


# Multiples of 1/64 are exact in every step: at a kink of the interpolation both backends take the same side.
coordinates = st.one_of(
    st.integers(-96, 160).map(lambda n: n / 64),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e300]),
)
PLACES = {"plain": "sampling_locations", "points": "sampling_offsets", "boxes": "sampling_offsets"}


@st.composite
def odd_inputs(draw, form: str) -> Inputs:
    # Sides by which the definition of the fused form divides, and its steps stay exact.
    side = st.integers(1, 4) if form == "plain" else st.sampled_from([1, 2, 4])
    inputs = make_inputs(
        form,
        draw(st.lists(st.tuples(side, side), max_size=3)),
        batch=draw(st.integers(0, 2)),
        heads=draw(st.integers(1, 3)),
        channels=draw(st.sampled_from([0, 1, 3, 8, 9, 33])),
        queries=draw(st.integers(0, 3)),
        points=draw(st.integers(0, 2)),
        seed=draw(st.integers(0, 99)),
    )
    if form != "plain":
        reference = inputs.reference_points.mul_(64).round_().div_(64)
        reference[..., 2:].clamp_(min=1 / 64)
    places = getattr(inputs, PLACES[form]).view(-1)
    if places.numel():
        replaced = draw(st.dictionaries(st.integers(0, places.numel() - 1), coordinates, max_size=8))
        for position, coordinate in replaced.items():
            places[position] = coordinate
    return inputs


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_definition_for_odd_shapes_and_places(form, data):
    require_compiled()
    assert_agree(data.draw(odd_inputs(form)), torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shapes", [[(4, 3), (1, 1)], [(1, 5), (5, 1)]])
def test_gradcheck(device, form, shapes):
    require_compiled(device)
    inputs = make_inputs(form, shapes, batch=1, channels=3, queries=3, points=2, device=device)
    names = tensor_names(inputs)

    def operator(*tensors):
        return run(inputs._replace(**dict(zip(names, tensors, strict=True))))

    tensors = [getattr(inputs, name).requires_grad_() for name in names]
    # Atomic additions on a GPU come in any order.
    assert torch.autograd.gradcheck(operator, tensors, nondet_tol=0.0 if device == "cpu" else 1e-12)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same numbers with another order in memory."""
    return tensor.permute(*reversed(range(tensor.ndim))).contiguous().permute(*reversed(range(tensor.ndim)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_accepts_inputs_that_are_not_contiguous(device, form, dtype):
    require_compiled(device)
    inputs = make_inputs(form, device=device, channels=6, dtype=dtype)
    others = replace_tensors(inputs, strided)
    assert not any(getattr(others, name).is_contiguous() for name in tensor_names(others))
    expected = output_and_gradients(run, inputs)
    for name, tensor in output_and_gradients(run, others).items():
        torch.testing.assert_close(tensor, expected[name], rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    # The gradient of a sum is one number, expanded.
    value = inputs.value.requires_grad_()
    run(inputs).sum().backward()
    assert value.grad.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("as_tensor_on", ["cpu", "same device"])
def test_level_sizes_may_be_a_tensor(device, form, as_tensor_on):
    require_compiled(device)
    inputs = make_inputs(form, device=device)
    shapes = torch.tensor(inputs.spatial_shapes, device="cpu" if as_tensor_on == "cpu" else device)
    same = inputs._replace(spatial_shapes=shapes)
    assert torch.equal(run(same), run(inputs))
    torch.testing.assert_close(define(same), define(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("reference_dtype", [torch.float64, torch.bfloat16])
def test_reference_points_of_any_dtype_are_taken_in_float32(each_backend, reference_dtype):
    inputs = make_inputs("boxes", dtype=torch.float32)
    points = inputs.reference_points.to(reference_dtype).requires_grad_()
    output = ms_deform_attn_fused(*inputs._replace(reference_points=points))
    expected = ms_deform_attn_fused(*inputs._replace(reference_points=points.detach().float()))
    assert torch.equal(output, expected)
    output.sum().backward()
    assert points.grad.dtype == reference_dtype
    assert points.grad.count_nonzero() > 0


@pytest.mark.parametrize("form", FORMS)
def test_results_do_not_depend_on_the_number_of_threads(form):
    require_compiled()
    inputs = make_inputs(form, [(16, 20), (8, 10)], heads=4, channels=32, queries=200, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = output_and_gradients(run, inputs)
        for count in (2, 3, 8):
            torch.set_num_threads(count)
            for name, tensor in output_and_gradients(run, inputs).items():
                assert torch.equal(tensor, expected[name]), f"{name} differs with {count} threads"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_agrees_with_definition_on_processors_without_avx2():
    """The variable that holds back torch's own kernels holds back ours; it is read once per process."""
    require_compiled()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "cpu and agrees and dtype and (32 or 43)",
    ]
    result = subprocess.run(
        command, env={**os.environ, "ATEN_CPU_CAPABILITY": "default"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout
