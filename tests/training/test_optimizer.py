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


def test_adam_decays_through_the_gradient_and_is_clipped_like_all(tiny_config):
    cfg = tiny_config(
        "SOLVER.OPTIMIZER", "ADAM", "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5"
    )
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    reference = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.1)
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


def test_gradients_are_clipped_one_by_one_on_request(tiny_config):
    cfg = tiny_config(
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5", "SOLVER.OPTIMIZER", "SGD"
    )
    model = torch.nn.Linear(2, 1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build_optimizer(cfg, model)
    (1000 * model(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.allclose(old - new, 1e-3 * (0.5 + 1e-4 * old), atol=1e-7)


@pytest.mark.parametrize(
    ("key", "value"), [("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "whole"), ("SOLVER.OPTIMIZER", "LBFGS")]
)
def test_unknown_settings_are_refused(tiny_config, key, value):
    with pytest.raises(ValueError, match=f"{key} is '{value}': set it to '"):
        build_optimizer(tiny_config(key, value), torch.nn.Linear(1, 1))


def test_weight_decay_of_norms_embeddings_and_biases(tiny_config):
    cfg = tiny_config(
        "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.WEIGHT_DECAY_NORM", "0.2", "SOLVER.WEIGHT_DECAY_BIAS", "0.3"
    )
    cfg.SOLVER.SLOW_PARAMETERS = []
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.4
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    model = torch.nn.ModuleDict(
        {"norm": torch.nn.LayerNorm(2), "embed": torch.nn.Embedding(2, 2), "backbone": torch.nn.Linear(2, 2)}
    )
    optimizer = build_optimizer(cfg, model)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        "norm.weight": (1e-3, 0.2),
        "norm.bias": (1e-3, 0.2),
        "embed.weight": (1e-3, 0.4),
        "backbone.weight": (5e-4, 0.1),
        "backbone.bias": (5e-4, 0.3),
    }
    assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == expected
