"""The module around the operator: what it computes, in which precision, and how it is traced."""

from __future__ import annotations

import copy

import pytest
import torch

from panoptic_segformer.modeling.deformable_attention import DeformableAttention
from panoptic_segformer.modeling.levels import FeatureLevels, pad_levels
from panoptic_segformer.ops import decompositions, ms_deform_attn_reference

DIM, HEADS, POINTS = 16, 4, 2
SIZES = [(6, 8), (3, 4)]


@pytest.fixture
def attention() -> DeformableAttention:
    torch.manual_seed(0)
    module = DeformableAttention(DIM, HEADS, len(SIZES), POINTS)
    for parameter in module.parameters():  # The start looks at nothing but its biases.
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def make_levels(*pictures) -> FeatureLevels:
    generator = torch.Generator().manual_seed(1)
    return pad_levels([[torch.randn(1, DIM, *size, generator=generator) for size in sizes] for sizes in pictures])


def make_arguments(levels: FeatureLevels, numbers: int, num_queries: int = 5):
    generator = torch.Generator().manual_seed(2)
    memory = levels.tokens()
    queries = torch.randn(len(memory), num_queries, DIM, generator=generator)
    reference = torch.rand(len(memory), num_queries, len(SIZES), numbers, generator=generator)
    return queries, reference, memory


def compose(module: DeformableAttention, queries, reference, memory, levels: FeatureLevels) -> torch.Tensor:
    """Compute the paper's steps one by one: projections, locations, softmax, samples."""
    batch, num_queries, _ = queries.shape
    heads = (HEADS, len(SIZES), POINTS)
    value = module.value_proj(memory)
    if levels.padding is not None:
        value = value.masked_fill(levels.padding[..., None], 0.0)
    offsets = module.sampling_offsets(queries).view(batch, num_queries, *heads, 2)
    weights = module.attention_weights(queries).view(batch, num_queries, HEADS, -1).softmax(-1)
    if reference.shape[-1] == 2:
        sizes = torch.tensor(levels.shapes).flip(-1)
        steps = 1 / sizes[:, None]
    else:
        steps = reference[:, :, None, :, None, 2:] / (2 * POINTS)
    locations = reference[:, :, None, :, None, :2] + offsets * steps
    samples = ms_deform_attn_reference(
        value.unflatten(-1, (HEADS, -1)), levels.shapes, locations, weights.view(batch, num_queries, *heads)
    )
    return module.output_proj(samples)


@pytest.mark.parametrize("numbers", [2, 4])
@pytest.mark.parametrize("pictures", [[SIZES], [SIZES, [(4, 5), (2, 3)]]])
def test_equals_its_steps_one_by_one(attention, numbers, pictures):
    levels = make_levels(*pictures)
    arguments = make_arguments(levels, numbers)
    torch.testing.assert_close(attention(*arguments, levels), compose(attention, *arguments, levels))


def test_half_precision_keeps_reference_points_apart(attention):
    """Neighbouring columns of a wide level have one number in bfloat16; in float32 each query reads its own."""
    width = 2048
    half = copy.deepcopy(attention).bfloat16()
    for parameter in (half.sampling_offsets.weight, half.sampling_offsets.bias):
        torch.nn.init.zeros_(parameter)
    for linear in (half.value_proj, half.output_proj):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    maps = [torch.arange(width).remainder(2).expand(1, DIM, 1, width) for _ in SIZES]
    levels = pad_levels([[level.bfloat16() for level in maps]])
    reference = levels.reference_points()[:, :width, None].expand(-1, -1, len(SIZES), -1)
    assert reference.dtype == torch.float32
    output = half(torch.zeros(1, width, DIM, dtype=torch.bfloat16), reference, levels.tokens(), levels)
    torch.testing.assert_close(output[0, :, 0], maps[0][0, 0, 0].bfloat16(), rtol=0, atol=0.01)


@pytest.mark.parametrize("numbers", [2, 4])
def test_compiles_without_a_graph_break_for_several_sizes(attention, numbers):
    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    for sizes in (SIZES, [(5, 7), (3, 3)]):
        levels = make_levels(sizes)
        arguments = make_arguments(levels, numbers)
        torch.testing.assert_close(compiled(*arguments, levels), attention(*arguments, levels))


@pytest.mark.parametrize("numbers", [2, 4])
def test_exported_and_decomposed(attention, numbers):
    levels = make_levels(SIZES)
    arguments = make_arguments(levels, numbers)

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, queries, reference, maps):
            levels = FeatureLevels(maps, [SIZES])
            return self.attention(queries, reference, levels.tokens(), levels)

    program = torch.export.export(Layer(), (*arguments[:2], levels.maps))
    decomposed = program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    assert not any("ms_deform_attn" in str(node.target) for node in decomposed.graph.nodes)
    for module in (program.module(), decomposed.module()):
        torch.testing.assert_close(module(*arguments[:2], levels.maps), attention(*arguments, levels))
