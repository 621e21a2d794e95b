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
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-4])
    assert all(group["weight_decay"] == 1e-4 for group in optimizer.param_groups)


def train_two_steps(cfg, scaler) -> list[torch.Tensor]:
    """Two steps whose gradients differ in size: without clipping before them, Adam would move otherwise."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    optimizer = build_optimizer(cfg, model)
    for size in (300.0, 3.0):
        optimizer.zero_grad()
        loss = size * model(torch.ones(1, 2)).square().sum()
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def test_all_gradients_are_clipped_together_before_the_step(tiny_config):
    cfg = tiny_config("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    reference = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    for size in (300.0, 3.0):
        reference.zero_grad()
        (size * model(torch.ones(1, 2)).square().sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        reference.step()
    for actual, expected in zip(train_two_steps(cfg, None), model.parameters(), strict=True):
        assert torch.allclose(actual, expected, atol=1e-7)


def test_scaled_gradients_are_clipped_after_the_scale_is_undone(tiny_config):
    cfg = tiny_config("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5")
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    for scaled, plain in zip(train_two_steps(cfg, scaler), train_two_steps(cfg, None), strict=True):
        assert torch.allclose(scaled, plain, atol=1e-7)


def test_other_kinds_of_clipping_are_refused(tiny_config):
    cfg = tiny_config("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value")
    with pytest.raises(ValueError, match="CLIP_TYPE is 'value'.*'full_model'"):
        build_optimizer(cfg, torch.nn.Linear(1, 1))
