"""The contract of the compiled operators with torch: schema, fake kernels, autograd, compilation."""

from __future__ import annotations

import pytest
import torch
from operator_inputs import (
    FORMS,
    cast,
    define,
    make_inputs,
    operator_arguments,
    operator_of,
    output_and_gradients,
    replace_tensors,
    run,
    tensor_names,
)
from torch.utils._python_dispatch import TorchDispatchMode

from compiled import require_compiled


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "sample_dtype"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_opcheck_forward(form, dtype, sample_dtype):
    require_compiled()
    inputs = cast(make_inputs(form, queries=3), dtype, sample_dtype)
    arguments = operator_arguments(replace_tensors(inputs, torch.Tensor.requires_grad_))
    torch.library.opcheck(operator_of(inputs), arguments)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("deterministic", [False, True])
def test_opcheck_backward(form, deterministic):
    require_compiled()
    inputs = make_inputs(form, queries=3)
    grad_output = torch.ones_like(run(inputs))
    arguments = [grad_output, *operator_arguments(inputs), deterministic]
    torch.library.opcheck(operator_of(inputs, "_backward"), arguments)


class RecordedCalls(TorchDispatchMode):
    """Keeps what every operation was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("deterministic", [False, True])
def test_backward_hears_of_deterministic_mode(form, deterministic):
    require_compiled()
    inputs = make_inputs(form)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        with RecordedCalls() as recorded:
            output_and_gradients(run, inputs)
    finally:
        torch.use_deterministic_algorithms(before)
    (arguments,) = [args for func, args in recorded.calls if func == operator_of(inputs, "_backward")]
    assert arguments[-1] is deterministic


@pytest.mark.parametrize("form", FORMS)
def test_only_inputs_are_kept_for_the_backward_pass(form):
    require_compiled()
    inputs = replace_tensors(make_inputs(form), torch.Tensor.requires_grad_)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        run(inputs)
    own = {getattr(inputs, name).data_ptr() for name in tensor_names(inputs)}
    assert {tensor.data_ptr() for tensor in kept} == own


@pytest.mark.parametrize("form", FORMS)
def test_fake_tensors_give_shapes_without_computing(form):
    require_compiled()
    inputs = make_inputs(form, dtype=torch.bfloat16)
    with torch._subclasses.FakeTensorMode() as mode:
        output = run(replace_tensors(inputs, mode.from_tensor))
    assert output.shape == (2, 6, 16)
    assert output.dtype == torch.bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_meta_tensors_give_shapes_without_computing(each_backend, form):
    inputs = replace_tensors(make_inputs(form, dtype=torch.float16), lambda tensor: tensor.to("meta"))
    results = output_and_gradients(run, inputs)
    assert results["output"].device.type == "meta"
    assert results["output"].shape == (2, 6, 16)
    assert results["output"].dtype == torch.float16
    for name in tensor_names(inputs):
        assert results[f"grad {name}"].shape == getattr(inputs, name).shape


def test_second_order_gradients_are_refused_not_zero():
    require_compiled()
    for form in FORMS:
        inputs = make_inputs(form)
        value = inputs.value.requires_grad_()
        (grad,) = torch.autograd.grad(run(inputs).square().sum(), value, create_graph=True)
        with pytest.raises(RuntimeError, match="first order only"):
            grad.sum().backward()


@pytest.mark.parametrize("form", FORMS)
def test_forward_mode_is_refused_not_zero(form):
    require_compiled()
    inputs = make_inputs(form)
    for name in tensor_names(inputs):
        tensor = getattr(inputs, name)
        with pytest.raises(RuntimeError, match="reverse mode only"):
            torch.func.jvp(lambda x, name=name: run(inputs._replace(**{name: x})), (tensor,), (tensor,))


# The definitions are long to trace.
@pytest.mark.parametrize(
    ("each_backend", "form", "dynamic"),
    [("compiled", form, dynamic) for form in FORMS for dynamic in (False, True)]
    + [("reference", "plain", True), ("reference", "points", False), ("reference", "boxes", False)],
    indirect=["each_backend"],
)
def test_compiles_as_one_graph(each_backend, form, dynamic):
    torch.compiler.reset()

    def layer(operator, inputs):
        scores = inputs[-1].sin()
        return operator(inputs._replace(**{"value": 2 * inputs.value, inputs._fields[-1]: scores}))

    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=dynamic)
    def compiled(inputs):
        return layer(run, inputs)

    for shapes in ([(5, 7), (3, 2)], [(4, 6), (2, 3)]):
        inputs = make_inputs(form, shapes)
        expected = output_and_gradients(lambda x: layer(define, x), inputs)
        for name, tensor in output_and_gradients(compiled, inputs).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_jit_trace_makes_constants_of_level_sizes(each_backend, form):
    """torch.jit.trace, by which fvcore counts operations, has tensors for the sizes of a map."""
    inputs = make_inputs(form, [(5, 7)])

    def layer(value_map):
        return run(inputs._replace(value=value_map.flatten(1, 2), spatial_shapes=[value_map.shape[1:3]]))

    traced = torch.jit.trace(layer, inputs.value.unflatten(1, (5, 7)), check_trace=False)
    # Numbers of Python are kept in float32 there.
    torch.testing.assert_close(traced(inputs.value.unflatten(1, (5, 7))), run(inputs), rtol=1e-5, atol=1e-6)
