"""The operator's contract with torch (schema, fake kernels, autograd, autocast, compile) and with its callers."""

from __future__ import annotations

import importlib

import pytest
import torch
from operator_inputs import make_inputs, output_and_gradients, require_compiled

from panoptic_segformer.ops import Backend, ms_deform_attn, ms_deform_attn_reference

# The package exports a function of the module's own name.
module = importlib.import_module("panoptic_segformer.ops.ms_deform_attn")


@pytest.fixture(params=["compiled", "reference"])
def each_backend(request, monkeypatch) -> str:
    """Run a test once with the compiled operator and once without it."""
    if request.param == "compiled":
        require_compiled()
    else:
        monkeypatch.setattr(module, "_extension", Backend("reference", "a test asked for it", "none"))
    return request.param


def operator_arguments(**options) -> list[torch.Tensor]:
    inputs = make_inputs(**options)
    return [inputs[0], torch.tensor(inputs[1]), inputs[2], inputs[3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck_forward(dtype):
    require_compiled()
    arguments = operator_arguments(dtype=dtype)
    for tensor in (arguments[0], *arguments[2:]):
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.panoptic_segformer.ms_deform_attn.default, arguments)


def test_opcheck_backward():
    require_compiled()
    arguments = operator_arguments()
    grad_output = torch.ones_like(ms_deform_attn(*arguments))
    operator = torch.ops.panoptic_segformer.ms_deform_attn_backward.default
    torch.library.opcheck(operator, [grad_output, *arguments])


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(each_backend, dynamic):
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=dynamic)
    def layer(value, spatial_shapes, locations, weights):
        return ms_deform_attn(2 * value, spatial_shapes, locations + 0, weights.softmax(-1))

    def eager(value, spatial_shapes, locations, weights):
        return ms_deform_attn_reference(2 * value, spatial_shapes, locations, weights.softmax(-1))

    for shapes in ([(5, 7), (3, 2)], [(4, 6), (2, 3)]):
        inputs = make_inputs(shapes)
        expected = output_and_gradients(eager, inputs)
        for name, tensor in output_and_gradients(layer, inputs).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-10)


def test_autocast_casts_value_and_keeps_locations_in_float32(each_backend):
    inputs = make_inputs(dtype=torch.float32)
    value, shapes, locations, weights = inputs
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = output_and_gradients(ms_deform_attn, inputs)
        mixed = ms_deform_attn(value.bfloat16(), shapes, locations, weights.bfloat16())
    expected = ms_deform_attn(value.bfloat16(), shapes, locations, weights)
    assert torch.equal(actual["output"], expected)
    assert actual["output"].dtype == torch.bfloat16
    assert {actual[f"grad {name}"].dtype for name in ("value", "locations", "weights")} == {torch.float32}
    assert mixed.dtype == torch.bfloat16
    # Locations in bfloat16 would give something else: the comparison above means something.
    rounded = ms_deform_attn(value.bfloat16(), shapes, locations.bfloat16().float(), weights)
    assert not torch.allclose(rounded.float(), expected.float(), atol=0.05)


def test_autocast_leaves_float64_alone(each_backend):
    inputs = make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = ms_deform_attn(*inputs)
    assert torch.equal(actual, ms_deform_attn(*inputs))


def test_autocast_under_compile():
    require_compiled()
    inputs = make_inputs(dtype=torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def layer(*arguments):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ms_deform_attn(*arguments)

    expected = ms_deform_attn(inputs[0].bfloat16(), *inputs[1:])
    assert torch.equal(layer(*inputs), expected)


def test_fake_tensors_give_shapes_without_computing():
    require_compiled()
    with torch._subclasses.FakeTensorMode():
        output = ms_deform_attn(
            torch.empty(2, 21, 2, 4), [(4, 5), (1, 1)], torch.empty(2, 9, 2, 2, 3, 2), torch.empty(2, 9, 2, 2, 3)
        )
    assert output.shape == (2, 9, 8)


WRONG_ARGUMENTS = {
    "swapped level order is caught by the length": (
        {"spatial_shapes": [(5, 7), (3, 3), (1, 1)]},
        r"spatial_shapes \[\(5, 7\), \(3, 3\), \(1, 1\)\] \(height, width\) .*length of value, 42",
    ),
    "level without pixels": ({"spatial_shapes": [(42, 1), (0, 2), (3, -1)]}, r"at least 1, got"),
    "sizes whose product overflows": ({"spatial_shapes": [(2**33, 2**31), (5, 8), (1, 2)]}, "length of value, 42"),
    "level sizes of the wrong dtype": (
        {"spatial_shapes": torch.tensor([[5, 7], [3, 2], [1, 1]], dtype=torch.int32)},
        r"spatial_shapes must be int64 \[levels, 2\].*got \w+(\.\w+)? of shape \[3, 2\]",
    ),
    "level sizes of the wrong rank": (
        {"spatial_shapes": torch.tensor([5, 7])},
        r"spatial_shapes must be int64 \[levels, 2\].*of shape \[2\]",
    ),
    "too few levels": (
        {"spatial_shapes": [(6, 7)]},
        r"must have shape \[2, 6, 2, 1, 3(, 2)?\] to fit",
    ),
    "value without heads": (
        {"value": torch.zeros(2, 42, 16, dtype=torch.float64)},
        r"value must be \[batch, length, heads, channels\], got shape \[2, 42, 16\]",
    ),
    "value of another batch": (
        {"value": torch.zeros(3, 42, 2, 8, dtype=torch.float64)},
        r"must have shape \[3, 6, 2, 3, 3(, 2)?\] to fit value \[3, 42, 2, 8\]",
    ),
    "locations without points": (
        {"sampling_locations": torch.zeros(2, 6, 2, 3, 2, dtype=torch.float64)},
        r"sampling_locations must be \[batch, queries, heads, levels, points, 2\], got shape \[2, 6, 2, 3, 2\]",
    ),
    "weights of another query count": (
        {"attention_weights": torch.zeros(2, 7, 2, 3, 3, dtype=torch.float64)},
        r"attention_weights must have shape \[2, 6, 2, 3, 3\] .*got \[2, 7, 2, 3, 3\]",
    ),
    "locations of another dtype": (
        {"sampling_locations": torch.zeros(2, 6, 2, 3, 3, 2, dtype=torch.float32)},
        "must share one dtype, that of value or, for half precision values, float32",
    ),
    "integer value": (
        {"value": torch.zeros(2, 42, 2, 8, dtype=torch.int64)},
        "must share one dtype, that of value or, for half precision values, float32",
    ),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_wrong_argument_is_named_with_its_values(each_backend, name):
    changes, message = WRONG_ARGUMENTS[name]
    with pytest.raises(RuntimeError, match=message):
        ms_deform_attn(*make_inputs()._replace(**changes))


def test_float32_value_with_half_precision_locations_is_refused(each_backend):
    inputs = make_inputs().to(torch.float32, torch.float16)
    with pytest.raises(RuntimeError, match="must share one dtype"):
        ms_deform_attn(*inputs)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("value", "meta, cpu and cpu"),
        ("sampling_locations", "cpu, meta and cpu"),
        ("attention_weights", "cpu, cpu and meta"),
    ],
)
def test_devices_that_differ_are_refused(each_backend, name, devices):
    inputs = make_inputs()
    elsewhere = inputs._replace(**{name: getattr(inputs, name).to("meta")})
    with pytest.raises(RuntimeError, match=f"must be on one device, got {devices}"):
        ms_deform_attn(*elsewhere)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_of_a_device_refuse_tensors_of_the_cpu():
    require_compiled("cuda")
    value, shapes, locations, weights = operator_arguments()
    with pytest.raises(RuntimeError, match="must be on a CUDA device"):
        torch.ops.panoptic_segformer.ms_deform_attn(value, shapes.cuda(), locations, weights)


def test_gradient_of_another_shape_is_refused():
    require_compiled()
    arguments = operator_arguments()
    with pytest.raises(RuntimeError, match=r"grad_output must be .*\[2, 6, 16\].* got .*\[2, 6, 8\]"):
        torch.ops.panoptic_segformer.ms_deform_attn_backward(torch.zeros(2, 6, 8).double(), *arguments)


def test_second_order_gradients_are_refused_not_zero():
    require_compiled()
    value, *others = make_inputs()
    output = ms_deform_attn(value.requires_grad_(), *others)
    (grad,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="first order only"):
        grad.sum().backward()


@pytest.mark.parametrize("position", [0, 2, 3])
def test_forward_mode_is_refused_not_zero(position):
    require_compiled()
    inputs = list(make_inputs())

    def operator(tensor):
        return ms_deform_attn(*inputs[:position], tensor, *inputs[position + 1 :])

    with pytest.raises(RuntimeError, match="reverse mode only"):
        torch.func.jvp(operator, (inputs[position],), (inputs[position],))
