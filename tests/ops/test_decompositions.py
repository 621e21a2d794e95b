"""What exporters see: one operator, or its definition where they ask for it."""

from __future__ import annotations

import pytest
import torch
from operator_inputs import FORMS, Inputs, define, make_inputs, operator_of, run

from panoptic_segformer.ops import decompositions


class Layer(torch.nn.Module):
    """The operator on two maps, its level sizes from their shapes."""

    def __init__(self, operator, kind: type[Inputs], heads: int) -> None:
        super().__init__()
        self.operator, self.kind, self.heads = operator, kind, heads

    def forward(self, maps: list[torch.Tensor], samples: list[torch.Tensor]) -> torch.Tensor:
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        tokens = torch.cat([level.flatten(2) for level in maps], dim=2).transpose(1, 2)
        return self.operator(self.kind(tokens.unflatten(-1, (self.heads, -1)), sizes, *samples))


def layer_arguments(inputs: Inputs) -> tuple:
    """Cut value into maps [B, D, H, W]."""
    sizes = inputs.spatial_shapes
    tokens = inputs.value.flatten(2).transpose(1, 2).split([height * width for height, width in sizes], dim=2)
    maps = [level.unflatten(2, pair) for level, pair in zip(tokens, sizes, strict=True)]
    return maps, list(inputs[2:])


def calls(program: torch.export.ExportedProgram) -> list[str]:
    """List the operators of this project in a graph."""
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return [target for target in targets if target.startswith("panoptic_segformer")]


def decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    return program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})


# The second size of a map differs from the first where an exported program must not have fixed it.
SIZES = {False: [[(5, 7), (3, 2)]], True: [[(5, 7), (3, 2)], [(6, 8), (4, 3)]]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_exported_as_one_operator_that_can_be_decomposed(each_backend, form, dynamic):
    inputs = make_inputs(form, SIZES[dynamic][0])
    layer = Layer(run, type(inputs), heads=2)
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    shapes = ([sides, sides], [None] * len(inputs[2:])) if dynamic else None
    program = torch.export.export(layer, layer_arguments(inputs), dynamic_shapes=shapes)
    expected = [str(operator_of(inputs))] if each_backend == "compiled" else []
    assert calls(program) == expected
    decomposed = decompose(program)
    assert calls(decomposed) == []
    assert any("grid_sampler_2d" in str(node.target) for node in decomposed.graph.nodes)
    for sizes in SIZES[dynamic]:
        inputs = make_inputs(form, sizes, seed=1)
        arguments = layer_arguments(inputs)
        assert torch.equal(program.module()(*arguments), run(inputs))
        torch.testing.assert_close(decomposed.module()(*arguments), define(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_exported_program_survives_a_file(each_backend, form, tmp_path):
    inputs = make_inputs(form, dtype=torch.float32)
    arguments = layer_arguments(inputs)
    program = torch.export.export(Layer(run, type(inputs), heads=2), arguments)
    torch.export.save(program, tmp_path / "layer.pt2")
    assert torch.equal(torch.export.load(tmp_path / "layer.pt2").module()(*arguments), run(inputs))


@pytest.mark.parametrize("form", FORMS)
def test_decomposed_under_autocast(each_backend, form):
    inputs = make_inputs(form, dtype=torch.float32)

    def operator(inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run(inputs)

    arguments = layer_arguments(inputs)
    decomposed = decompose(torch.export.export(Layer(operator, type(inputs), heads=2), arguments))
    assert calls(decomposed) == []
    output = decomposed.module()(*arguments)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, operator(inputs), rtol=2**-7, atol=2**-7)


def test_every_operator_has_its_decomposition(each_backend):
    operators = {operator_of(make_inputs(form)) for form in FORMS} if each_backend == "compiled" else set()
    assert decompositions().keys() == operators
