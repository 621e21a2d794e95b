"""Groups, clipping, and refused settings of the optimizer."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from panoptic_segformer.training.optimizer import build_optimizer


def test_slow_parameters_learn_a_tenth_as_fast(tiny_config):
    cfg = tiny_config()
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    fast, slow = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert all("backbone" in n or "sampling_offsets" in n or "reference_points" in n for n in slow)
    assert not any("backbone" in n or "sampling_offsets" in n or "reference_points" in n for n in fast)
    assert len(fast) + len(slow) == sum(p.requires_grad for p in model.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-5])
    assert all(group["weight_decay"] == 1e-4 for group in optimizer.param_groups)


def test_all_gradients_are_clipped_together(tiny_config):
    cfg = tiny_config("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer.step()
    norm = sum(parameter.grad.square().sum() for parameter in model.parameters()).sqrt()
    assert norm.item() == pytest.approx(0.5, rel=1e-4)


def test_other_kinds_of_clipping_are_refused(tiny_config):
    cfg = tiny_config("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value")
    with pytest.raises(ValueError, match="CLIP_TYPE is 'value'.*'full_model'"):
        build_optimizer(cfg, torch.nn.Linear(1, 1))
