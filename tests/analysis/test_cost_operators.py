"""FLOPs of any model of Detectron2, and of the operators that fvcore has no count for, against counts by hand."""

from __future__ import annotations

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torchvision.ops import DeformConv2d

from panoptic_segformer.analysis import count_flops
from panoptic_segformer.analysis.cost import OPERATOR_FLOPS


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs):
        return self.function(*inputs)


@torch.no_grad()
def count(function, *inputs, modules=()):
    analysis = FlopCountAnalysis(Call(function, *modules).eval(), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return dict(analysis.set_op_handle(**OPERATOR_FLOPS).by_operator())


# Pictures, queries, keys, width, heads.
B, L, S, D, M = 2, 5, 7, 12, 3


def test_baddbmm():
    tensors = torch.rand(B, L, S), torch.rand(B, L, D), torch.rand(B, D, S)
    assert count(torch.baddbmm, *tensors) == {"baddbmm": B * L * D * S}


def test_scaled_dot_product_attention_with_values_of_another_width():
    query, key, value = torch.rand(B, M, L, D), torch.rand(B, M, S, D), torch.rand(B, M, S, D + 1)
    flops = count(nn.functional.scaled_dot_product_attention, query, key, value)
    assert flops == {"attention": B * M * L * S * (D + D + 1)}


def attention_flops(keys):
    """Return FLOPs of the four projections, and of logits and weighted sum."""
    return B * (2 * L * D**2 + 2 * keys * D**2) + 2 * B * L * keys * D


def test_multi_head_attention_in_one_operator():
    attention = nn.MultiheadAttention(D, M, batch_first=True).eval()
    tokens = torch.rand(B, L, D)
    # Called as torch does on its fast path, which tracing avoids in some versions.
    arguments = (D, M, attention.in_proj_weight, attention.in_proj_bias)
    projection = attention.out_proj.weight, attention.out_proj.bias

    def call(tokens):
        return torch._native_multi_head_attention(tokens, tokens, tokens, *arguments, *projection, need_weights=False)[
            0
        ]

    flops = count(call, tokens, modules=[attention])
    assert flops == {"linear": 4 * B * L * D**2, "attention": 2 * B * L * L * D}
    assert sum(flops.values()) == attention_flops(L)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention_counts_the_same_on_every_path(need_weights, masked):
    attention = nn.MultiheadAttention(D, M, batch_first=True).eval()
    mask = torch.zeros(B, S, dtype=torch.bool) if masked else None

    def call(queries, keys):
        return attention(queries, keys, keys, key_padding_mask=mask, need_weights=need_weights)[0]

    flops = count(call, torch.rand(B, L, D), torch.rand(B, S, D), modules=[attention])
    assert sum(flops.values()) == attention_flops(S)


def test_deformable_convolution():
    conv = DeformConv2d(4, 6, 3, padding=1)
    inputs = torch.rand(1, 4, 8, 10), torch.zeros(1, 18, 8, 10), torch.ones(1, 9, 8, 10)
    assert count(conv, *inputs, modules=[conv]) == {"deformable conv": 6 * 8 * 10 * 4 * 9}


class _ModulatedDeformConv(torch.autograd.Function):
    """Named and called as Detectron2's compiled operator."""

    @staticmethod
    def forward(ctx, image, offset, mask, weight, bias):
        return image.new_zeros(image.shape[0], weight.shape[0], *image.shape[-2:])


class MSDeformAttnFunction(torch.autograd.Function):
    """Named and called as the compiled operator of Deformable DETR and Mask2Former."""

    @staticmethod
    def forward(ctx, value, sizes, starts, locations, weights, step):
        return value.new_zeros(value.shape[0], weights.shape[1], value.shape[2] * value.shape[3])


def test_compiled_deformable_convolution():
    tensors = [torch.rand(1, 4, 8, 10), torch.rand(1, 18, 8, 10), torch.rand(1, 9, 8, 10), torch.rand(6, 4, 3, 3)]
    assert count(_ModulatedDeformConv.apply, *tensors, torch.rand(6)) == {"deformable conv": 6 * 8 * 10 * 4 * 9}


def test_compiled_deformable_attention():
    levels, points = 2, 4
    sizes, starts = torch.tensor([[4, 6], [2, 3]]), torch.tensor([0, 24])
    locations, weights = torch.rand(B, L, M, levels, points, 2), torch.rand(B, L, M, levels, points)

    def call(value, locations, weights):
        return MSDeformAttnFunction.apply(value, sizes, starts, locations, weights, 64)

    flops = count(call, torch.rand(B, 30, M, 8), locations, weights)
    assert flops == {"deformable attention": 5 * B * L * M * levels * points * 8}


def test_einsum_of_queries_and_pixels():
    flops = count(lambda a, b: torch.einsum("bqc,bchw->bqhw", a, b), torch.rand(B, L, D), torch.rand(B, D, 3, 4))
    assert sum(flops.values()) == B * L * D * 3 * 4


class DecidingModel(nn.Module):
    """A model whose class head decides in Python alone; what it keeps nothing of leaves no trace in its results."""

    def __init__(self, bias):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 4, stride=4)
        self.classes = nn.Linear(8, 5)
        self.masks = nn.Conv2d(8, 2, 1)
        nn.init.constant_(self.classes.bias, bias)

    def forward(self, batched_inputs):
        (example,) = batched_inputs
        assert isinstance(example["height"], int | torch.Tensor)
        features = self.backbone(example["image"][None])
        score = self.classes(features.mean((2, 3))).max().item()
        masks = self.masks(features)
        ids = masks[0].argmax(0) if score > 0 else torch.zeros(1)
        return [{"panoptic_seg": (ids, [{"id": 1, "score": score}])}]


@pytest.mark.parametrize("bias", [-1e4, 1e4], ids=["keeps nothing", "keeps all"])
def test_flops_do_not_depend_on_what_is_kept(bias):
    flops = count_flops(DecidingModel(bias).eval(), (16, 24))
    pixels = 4 * 6
    assert flops.by_part == {"backbone": pixels * 8 * 3 * 16, "classes": 8 * 5, "masks": pixels * 8 * 2}
    assert flops.total == sum(flops.by_part.values())


def test_flops_of_a_given_picture():
    """A model that looks at bright pictures twice."""

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, batched_inputs):
            image = batched_inputs[0]["image"]
            for _ in range(1 + int(image.mean() > 100)):
                result = self.layer(image)
            return [{"result": result}]

    once = 16 * 24 * 3 * 4
    assert count_flops(Looking().eval(), (16, 24), torch.zeros(3, 16, 24)).total == once
    assert count_flops(Looking().eval(), (16, 24), torch.full((3, 16, 24), 200.0)).total == 2 * once
