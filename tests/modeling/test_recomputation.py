"""Activation checkpointing: the same gradients, from less that is kept."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from panoptic_segformer.modeling import recomputation
from panoptic_segformer.modeling.backbone import TimmBackbone
from panoptic_segformer.modeling.recomputation import recompute_backbone, recompute_layers


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(16, 64), nn.Linear(64, 16)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear2(self.dropout(self.linear1(x).relu()))


def step(network, inputs) -> tuple[int, list[torch.Tensor]]:
    """Return the bytes that a forward pass keeps for the backward pass, and the gradients."""
    torch.manual_seed(1)  # of dropout
    network.zero_grad()
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(inputs)
        output = output if isinstance(output, torch.Tensor) else torch.cat([x.flatten() for x in output.values()])
        loss = output.square().sum()
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    return sum(kept.values()), gradients


def assert_equal_from_less(network, recompute, inputs):
    kept, expected = step(network, inputs)
    recompute(network)
    kept_again, actual = step(network, inputs)
    assert kept_again < 0.7 * kept
    assert len(actual) == len(expected) > 0
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(actual, expected, strict=True))


def test_layers_with_dropout():
    network = nn.Sequential(*(Dropping() for _ in range(4)))
    names = list(network.state_dict())
    inputs = torch.randn(128, 16, requires_grad=True)
    assert_equal_from_less(network, recompute_layers, inputs)
    assert list(network.state_dict()) == names


def test_blocks_of_residual_networks_that_learn():
    blocks = nn.Sequential(*(BottleneckBlock(16, 16, bottleneck_channels=8, norm="FrozenBN") for _ in range(3)))
    for parameter in blocks[0].parameters():
        parameter.requires_grad_(False)
    frozen = blocks[0].forward
    assert_equal_from_less(blocks, recompute_backbone, torch.randn(1, 16, 12, 12))
    assert blocks[0].forward == frozen


@pytest.mark.parametrize("name", ["pvt_v2_b0", "tf_efficientnet_lite0"])
def test_timm_models(name):
    inputs = torch.randn(1, 3, 64, 96)
    assert_equal_from_less(TimmBackbone(name, [8, 16, 32]), recompute_backbone, inputs)


def test_stages_of_timm_models_go_block_by_block():
    backbone = TimmBackbone("pvt_v2_b0", [8, 16, 32])
    recompute_backbone(backbone)
    blocks = [module for module in backbone.modules() if type(module).__name__ == "PyramidVisionTransformerBlock"]
    runs = []
    for block in blocks:
        block.register_forward_pre_hook(lambda block, _: runs.append(block))
    sum(feature.sum() for feature in backbone(torch.randn(1, 3, 64, 96)).values()).backward()
    forward, again = runs[: len(blocks)], runs[len(blocks) :]
    assert forward == blocks
    assert again == blocks[::-1]  # each right before its own backward; whole stages would come in the order of forward


def test_outside_of_training_nothing_is_different(monkeypatch):
    network = nn.Sequential(Dropping()).eval()
    inputs = torch.randn(4, 16)
    expected = network(inputs)
    recompute_layers(network)
    monkeypatch.setattr(recomputation, "checkpoint", None)
    with torch.no_grad():
        assert torch.equal(network(inputs), expected)


def test_batch_norm_that_learns_is_refused():
    block = BottleneckBlock(8, 8, bottleneck_channels=4, norm="BN")
    with pytest.raises(ValueError, match="MODEL.RESNETS.NORM to FrozenBN"):
        recompute_backbone(block)


def test_backbone_without_blocks_is_refused():
    with pytest.raises(ValueError, match="backbone Conv2d has no blocks"):
        recompute_backbone(nn.Conv2d(3, 8, 3))
