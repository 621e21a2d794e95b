"""Convolutional parts: coordinates, deformable convolutions, upsampling, initial values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from panoptic_fcn.deformable import DeformableConv, deformable_convolution
from panoptic_fcn.heads import (
    FeatureEncoder,
    KernelGenerator,
    KernelHead,
    PositionHead,
    SemanticFPN,
    TowerShape,
    append_coordinates,
)

SHAPE = TowerShape(num_convs=2, channels=32, deformable=False, with_coordinates=True, norm="GN")


def deformable_inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "x": (2, 3, 5, 7),
        "offsets": (2, 18, 5, 7),
        "weights": (2, 9, 5, 7),
        "kernel": (4, 3, 3, 3),
        "bias": (4,),
    }
    inputs = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
    inputs["offsets"] *= 3  # some places lie outside
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def test_row_coordinate_comes_before_column_coordinate():
    x = append_coordinates(torch.zeros(2, 3, 4, 5))
    assert x.shape == (2, 5, 4, 5)
    assert x[1, 3, :, 2].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert x[1, 4, 2].tolist() == pytest.approx([-1, -0.5, 0, 0.5, 1])


def test_deformable_convolution_of_the_cpu_equals_torchvisions_with_gradients():
    inputs = deformable_inputs()
    upstream = torch.randn(2, 4, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = deformable_convolution(*inputs.values())
    x, offsets, weights, kernel, bias = inputs.values()
    theirs = deform_conv2d(x, offsets, kernel, bias, padding=1, mask=weights)
    torch.testing.assert_close(ours, theirs)
    own = torch.autograd.grad((ours * upstream).sum(), list(inputs.values()))
    expected = torch.autograd.grad((theirs * upstream).sum(), list(inputs.values()))
    for name, a, b in zip(inputs, own, expected, strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_deformable_convolution_without_gradients_equals_that_with_them():
    inputs = deformable_inputs()
    with_gradients = deformable_convolution(*inputs.values())
    with torch.no_grad():
        torch.testing.assert_close(deformable_convolution(*inputs.values()), with_gradients)


@torch.no_grad()
def test_deformable_convolution_of_what_is_no_number_is_none():
    """Without a check torchvision's operator ends the process with a segmentation fault."""
    x = torch.zeros(1, 3, 6, 7)
    x[0, 1, 2, 3] = torch.nan
    is_number = DeformableConv(3, 4, norm="")(x).isfinite()
    assert not is_number[:, :, 1:4, 2:5].any()  # a cell and its neighbours
    assert is_number[:, :, 5].all()


def test_deformable_convolution_without_offsets_is_a_plain_one():
    layer = DeformableConv(3, 4, norm="")
    torch.nn.init.zeros_(layer.offset_mask_conv.weight)
    torch.nn.init.zeros_(layer.offset_mask_conv.bias)
    torch.nn.init.normal_(layer.dcnv2.bias)
    x = torch.randn(2, 3, 6, 5)
    # All cells weigh sigmoid(0) = 1/2.
    expected = F.relu(F.conv2d(x, layer.dcnv2.weight / 2, layer.dcnv2.bias, padding=1))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 4)])
def test_heads_take_levels_of_any_size(size):
    level = torch.randn(2, 32, *size)
    deformable = TowerShape(num_convs=1, channels=32, deformable=True, with_coordinates=False, norm="GN")
    things, stuff = PositionHead(32, deformable, 5, 3, bias=-2.19)(level)
    assert things.shape == (2, 5, *size)
    assert stuff.shape == (2, 3, *size)
    assert KernelHead(32, SHAPE)(level).shape == (2, 32, *size)
    assert FeatureEncoder(32, SHAPE)(level).shape == (2, 32, *size)


def test_initial_positions_are_improbable():
    head = PositionHead(32, SHAPE, 5, 3, bias=-2.19)
    for predictor in (head.out_inst, head.out_sem):
        assert (predictor.bias == -2.19).all()
        assert predictor.weight.std().item() == pytest.approx(0.01, rel=0.2)


def test_generator_is_its_1x1_convolution_and_takes_no_kernels():
    generator = KernelGenerator(6, 4)
    kernels = torch.randn(5, 6)
    expected = generator.embed_extractor(kernels[:, :, None, None])[:, :, 0, 0]
    torch.testing.assert_close(generator(kernels), expected)
    assert generator(kernels[:0]).shape == (0, 4)


def test_semantic_fpn_adds_all_levels_at_stride_4():
    network = SemanticFPN({"p2": 4, "p3": 8, "p4": 16, "p5": 32}, 8, 32, "GN")
    assert [len(network.get_submodule(name)) for name in ("p2", "p3", "p4", "p5")] == [1, 2, 4, 6]
    features = {f"p{i}": torch.randn(1, 8, 64 >> i, 96 >> i) for i in range(2, 6)}
    total = network(features)
    assert total.shape == (1, 32, 16, 24)
    parts = [network.get_submodule(name)(features[name]) for name in features]
    torch.testing.assert_close(total, torch.stack(parts).sum(0))
