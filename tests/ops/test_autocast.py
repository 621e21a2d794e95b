"""What torch.autocast does to the operators."""

from __future__ import annotations

import pytest
import torch
from operator_inputs import FORMS, cast, make_inputs, operator_arguments, operator_of, output_and_gradients, run

from compiled import require_compiled


@pytest.mark.parametrize("form", FORMS)
def test_value_is_cast_and_its_samples_stay_in_float32(each_backend, form):
    inputs = make_inputs(form, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = output_and_gradients(run, inputs)
    expected = run(inputs._replace(value=inputs.value.bfloat16()))
    assert torch.equal(actual.pop("output"), expected)
    assert expected.dtype == torch.bfloat16
    assert {gradient.dtype for gradient in actual.values()} == {torch.float32}
    # Places in bfloat16 would give something else: the comparison above means something.
    rounded = run(cast(cast(inputs, torch.bfloat16), torch.bfloat16, torch.float32))
    assert not torch.equal(rounded, expected)


@pytest.mark.parametrize("form", FORMS)
def test_samples_of_two_dtypes_become_float32(each_backend, form):
    inputs = make_inputs(form, dtype=torch.float32)
    half = inputs[-1].bfloat16()
    mixed = inputs._replace(**{inputs._fields[-1]: half})
    expected = run(mixed._replace(**{"value": inputs.value.bfloat16(), inputs._fields[-1]: half.float()}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(mixed), expected)


@pytest.mark.parametrize("form", ["points", "boxes"])
def test_offsets_and_logits_of_the_dtype_of_autocast_stay_as_they_are(each_backend, form):
    inputs = cast(make_inputs(form), torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = output_and_gradients(run, inputs)
    for name, tensor in output_and_gradients(run, inputs).items():
        assert torch.equal(results[name], tensor), name
    assert results["grad sampling_offsets"].dtype == torch.bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_of_another_kind_becomes_that_of_autocast(each_backend, form):
    inputs = cast(make_inputs(form), torch.float16)
    expected = run(cast(inputs, torch.float32)._replace(value=inputs.value.bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(inputs), expected)


@pytest.mark.parametrize("form", FORMS)
def test_float64_is_left_alone(each_backend, form):
    inputs = make_inputs(form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run(inputs)
    assert torch.equal(actual, run(inputs))


@pytest.mark.parametrize("form", FORMS)
def test_operator_itself_is_cast_too(form):
    """In a graph that torch.export made it is called without the public function."""
    require_compiled()
    inputs = make_inputs(form, dtype=torch.float32)
    expected = run(inputs._replace(value=inputs.value.bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(operator_of(inputs)(*operator_arguments(inputs)), expected)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_under_compile(form):
    require_compiled()
    torch.compiler.reset()
    inputs = make_inputs(form, dtype=torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def layer(inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run(inputs)

    assert torch.equal(layer(inputs), run(inputs._replace(value=inputs.value.bfloat16())))
