"""A wrong argument is refused by both backends, with the values seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from operator_inputs import FORMS, cast, make_inputs, needs_gpu, operator_arguments, operator_of, run, tensor_names

from compiled import require_compiled


class Wrong(NamedTuple):
    form: str
    changes: dict
    message: str


def double(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


ONE_DTYPE = "must share one dtype, that of value or, for half precision values, float32"
SHAPES = {
    "swapped level order is caught by the length": (
        [(5, 7), (3, 3), (1, 1)],
        r"spatial_shapes \[\(5, 7\), \(3, 3\), \(1, 1\)\] \(height, width\) .*length of value, 42",
    ),
    "level without pixels": ([(42, 1), (0, 2), (3, -1)], r"at least 1 .*got"),
    "side that float32 can't count": ([(2**24 + 1, 1), (5, 8), (1, 2)], r"at most 16777216, got"),
    "sizes whose product overflows": ([(2**24, 2**24)] * 3, "length of value, 42"),
    "level sizes of the wrong dtype": (
        torch.tensor([[5, 7], [3, 2], [1, 1]], dtype=torch.int32),
        r"spatial_shapes must be int64 \[levels, 2\].*got torch.int32 of shape \[3, 2\]",
    ),
    "level sizes of the wrong rank": (
        torch.tensor([5, 7]),
        r"spatial_shapes must be int64 \[levels, 2\].*of shape \[2\]",
    ),
    "level sizes that are no pairs": ([5, 7, 3, 2, 1, 1], r"one pair \(height, width\) per level, got \[5, 7, 3"),
    "level sizes of three numbers": ([(1, 42, 1)], r"one pair \(height, width\) per level, got \[\(1, 42, 1\)\]"),
    "too few levels": ([(6, 7)], r"must have shape \[2, 6, 2, 1, 3(, 2)?\] to fit value \[2, 42, 2, 8\] and 1 levels"),
}
WRONG = {f"{name}, {form}": Wrong(form, {"spatial_shapes": shapes}, message)
         for name, (shapes, message) in SHAPES.items() for form in FORMS}  # fmt: skip
for form, places, scores in (
    ("plain", "sampling_locations", "attention_weights"),
    ("points", "sampling_offsets", "attention_logits"),
):
    WRONG |= {
        f"value without heads, {form}": Wrong(
            form,
            {"value": double(2, 42, 16)},
            r"value must be \[batch, length, heads, channels\], got shape \[2, 42, 16\]",
        ),
        f"value of another batch, {form}": Wrong(
            form,
            {"value": double(3, 42, 2, 8)},
            r"must have shape \[3, 6, 2, 3, 3(, 2)?\] to fit value \[3, 42, 2, 8\]",
        ),
        f"integer value, {form}": Wrong(form, {"value": torch.zeros(2, 42, 2, 8, dtype=torch.int64)}, ONE_DTYPE),
        f"{places} without points": Wrong(
            form,
            {places: double(2, 6, 2, 3, 2)},
            rf"{places} must be \[batch, queries, heads, levels, points, 2\], got shape \[2, 6, 2, 3, 2\]",
        ),
        f"{places} of three numbers": Wrong(
            form,
            {places: double(2, 6, 2, 3, 3, 3)},
            rf"{places} must have shape \[2, 6, 2, 3, 3, 2\] to fit .*, got \[2, 6, 2, 3, 3, 3\]",
        ),
        f"{scores} of another query count": Wrong(
            form,
            {scores: double(2, 7, 2, 3, 3)},
            rf"{scores} must have shape \[2, 6, 2, 3, 3\] .*got \[2, 7, 2, 3, 3\]",
        ),
        f"{places} of another dtype": Wrong(
            form, {places: double(2, 6, 2, 3, 3, 2).float()}, rf"{places} and {scores} {ONE_DTYPE}"
        ),
    }
for name, shape in {
    "of another query count": (2, 7, 3, 2),
    "of another level count": (2, 6, 2, 2),
    "of three numbers": (2, 6, 3, 3),
    "without levels": (2, 6, 2),
}.items():
    message = rf"reference_points must have shape \[2, 6, 3, 2\] .*got \[{', '.join(map(str, shape))}\]"
    WRONG[f"reference points {name}"] = Wrong("points", {"reference_points": double(*shape)}, message)
WRONG["boxes of another query count"] = Wrong(
    "boxes",
    {"reference_points": double(2, 7, 3, 4)},
    r"reference_points must have shape \[2, 6, 3, 4\] .*got \[2, 7, 3, 4\]",
)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_is_named_with_its_values(each_backend, name):
    wrong = WRONG[name]
    with pytest.raises(RuntimeError, match=wrong.message):
        run(make_inputs(wrong.form)._replace(**wrong.changes))


@pytest.mark.parametrize("form", FORMS)
def test_float32_value_with_half_precision_samples_is_refused(each_backend, form):
    with pytest.raises(RuntimeError, match="must share one dtype"):
        run(cast(make_inputs(form), torch.float32, torch.float16))


@pytest.mark.parametrize("form", FORMS)
def test_level_sizes_may_be_an_array(each_backend, form):
    inputs = make_inputs(form)
    assert torch.equal(run(inputs._replace(spatial_shapes=np.array(inputs.spatial_shapes))), run(inputs))


@pytest.mark.parametrize("form", FORMS)
def test_devices_that_differ_are_refused(each_backend, form):
    inputs = make_inputs(form)
    names = tensor_names(inputs)
    for name in names:
        elsewhere = inputs._replace(**{name: getattr(inputs, name).to("meta")})
        *first, last = ["meta" if other == name else "cpu" for other in names]
        with pytest.raises(RuntimeError, match=f"must be on one device, got {', '.join(first)} and {last}"):
            run(elsewhere)


@pytest.mark.parametrize("form", ["points", "boxes"])
def test_compiled_operator_refuses_reference_points_of_another_dtype(form):
    require_compiled()
    inputs = make_inputs(form, dtype=torch.float32)
    half = inputs._replace(reference_points=inputs.reference_points.half())
    with pytest.raises(RuntimeError, match="reference_points must be Float.* got Half"):
        operator_of(half)(*operator_arguments(half))


@pytest.mark.parametrize("form", FORMS)
def test_compiled_operator_refuses_sizes_that_are_no_pairs(form):
    require_compiled()
    value, sizes, *samples = operator_arguments(make_inputs(form))
    with pytest.raises(RuntimeError, match=r"spatial_shapes must hold \(height, width\) of each level, .* got 5"):
        operator_of(make_inputs(form))(value, sizes[:-1], *samples)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_another_shape_is_refused(form):
    require_compiled()
    inputs = make_inputs(form)
    with pytest.raises(RuntimeError, match=r"grad_output must be .*\[2, 6, 16\].* got .*\[2, 6, 8\]"):
        operator_of(inputs, "_backward")(double(2, 6, 8), *operator_arguments(inputs), False)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("form", FORMS)
def test_kernels_of_a_device_refuse_tensors_of_the_cpu(device, form):
    require_compiled(device)
    inputs = make_inputs(form)
    value, sizes, *samples = operator_arguments(inputs)
    with pytest.raises(RuntimeError, match="must be on"):
        operator_of(inputs)(value.to(device), sizes, *samples)
