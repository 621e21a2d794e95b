"""The feed-forward networks."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from panoptic_segformer.modeling.mlp import FeedForward


def test_dropout_in_front_of_relu_equals_dropout_behind_it():
    torch.manual_seed(0)
    network = FeedForward(8, 32, 0.4).double().train()
    inputs = torch.randn(5, 8, dtype=torch.float64)
    found = []
    for forward in (
        network,
        lambda x: network.dropout(network.linear2(network.dropout(F.relu(network.linear1(x))))),
    ):
        network.zero_grad()
        torch.manual_seed(1)
        output = forward(inputs)
        output.square().sum().backward()
        found.append([output, *(parameter.grad.clone() for parameter in network.parameters())])
    assert found[0][0].count_nonzero() < found[0][0].numel()  # something was dropped
    assert all(torch.allclose(mine, usual, atol=1e-14) for mine, usual in zip(*found, strict=True))
