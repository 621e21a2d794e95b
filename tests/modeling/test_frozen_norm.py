"""Frozen norms inside the weights against frozen norms behind the convolution."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

from panoptic_segformer.modeling.frozen_norm import FoldedConv2d, fold_frozen_norms


@pytest.fixture
def network() -> nn.Sequential:
    """Two convolutions with frozen norms whose statistics are not those of a fresh one, and two that have none."""
    torch.manual_seed(0)
    network = nn.Sequential(
        Conv2d(3, 8, 3, stride=2, padding=1, bias=False, norm=FrozenBatchNorm2d(8), activation=F.relu_),
        Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False, norm=FrozenBatchNorm2d(8)),
        Conv2d(8, 8, 1, bias=False, norm=nn.BatchNorm2d(8)),
        Conv2d(8, 4, 1),
    ).double()
    for conv in network[:2]:
        for buffer in conv.norm.buffers():
            buffer.uniform_(0.5, 2.0)
    return network.eval()


def test_results_and_gradients_are_equal(network):
    folded = copy.deepcopy(network)
    fold_frozen_norms(folded)
    assert [type(conv) for conv in folded] == [FoldedConv2d, FoldedConv2d, Conv2d, Conv2d]
    images = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(folded(images), network(images), atol=1e-12)
    expected, actual = network(images), folded(images)
    assert torch.allclose(actual, expected, atol=1e-12)
    for output in (expected, actual):
        output.square().sum().backward()
    gradients = zip(network.parameters(), folded.parameters(), strict=True)
    assert all(torch.allclose(mine.grad, plain.grad, atol=1e-10) for plain, mine in gradients)


def test_nothing_more_is_kept_for_the_backward_pass(network):
    images = torch.randn(1, 3, 9, 12, dtype=torch.float64)
    kept = []
    for _ in range(2):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            network[:2](images)
        kept.append(sum(sizes))
        fold_frozen_norms(network)
    assert kept[1] <= kept[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm_dtype", ["same", torch.float32])
def test_half_precision(network, dtype, norm_dtype):
    images = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = network[:2](images)
        fold_frozen_norms(network)
        network.to(dtype)
        if norm_dtype != "same":
            for conv in network[:2]:
                conv.norm.to(norm_dtype)
        actual = network[:2](images.to(dtype))
    assert actual.dtype == dtype
    assert (actual - expected).abs().max() <= 0.02 * expected.abs().max()


def test_names_of_parameters_stay(network):
    names = list(network.state_dict())
    fold_frozen_norms(network)
    assert list(network.state_dict()) == names
