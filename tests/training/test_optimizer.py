"""Groups, clipping, and refused settings of the optimizer."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_backbone, build_model

from panoptic_segformer.modeling.backbone import TimmBackbone
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


def rate_factors(cfg, backbone) -> dict[str, float]:
    """Return the learning rates of a model of this backbone and a head, as multiples of the base rate."""
    model = torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(2, 2)})
    optimizer = build_optimizer(cfg, model)
    rates = {id(p): group["lr"] / cfg.SOLVER.BASE_LR for group in optimizer.param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}


def assert_rates(cfg, backbone, depth_of) -> None:
    """Check that the layers of a backbone learn 0.1 (the recipe's factor) * 0.5 ** depth times as fast as the head."""
    factors = rate_factors(cfg, backbone)
    assert factors.pop("head.weight") == factors.pop("head.bias") == 1
    assert factors
    for name, factor in factors.items():
        assert factor == pytest.approx(0.1 * 0.5 ** depth_of(name.removeprefix("backbone."))), name


@pytest.fixture
def resnet_config(tiny_config):
    """Function that gives a config with layer decay and Detectron2's R50, whose first stages are frozen."""

    def load(freeze_at: int):
        cfg = tiny_config("SOLVER.LAYER_DECAY", "0.5", "MODEL.BACKBONE.NAME", "build_resnet_backbone")
        cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
        return cfg

    return load


def test_stem_and_blocks_of_detectron2s_resnet_are_its_layers(resnet_config):
    cfg = resnet_config(freeze_at=0)
    blocks = {"res2": 3, "res3": 4, "res4": 6, "res5": 3}  # of R50

    def depth(name: str) -> int:
        stage, number = name.split(".")[:2]
        if stage == "stem":
            return 17
        above = list(blocks)[list(blocks).index(stage) + 1 :]
        return sum(blocks[stage] for stage in above) + blocks[stage] - int(number)

    assert depth("res5.2.conv1.weight") == 1
    assert depth("res2.0.conv1.weight") == 16
    assert_rates(cfg, build_backbone(cfg), depth)


def test_frozen_layers_count_and_do_not_learn(resnet_config):
    cfg = resnet_config(freeze_at=4)
    factors = rate_factors(cfg, build_backbone(cfg))  # of the three blocks that are left
    assert sorted(set(factors.values())) == pytest.approx([0.0125, 0.025, 0.05, 1])


# Number of the layer from the picture, by the first words of a parameter's name, and the topmost number.
TIMM_LAYERS = {
    # A stem and eight blocks of two convolutions.
    "resnet18": (
        {"conv1": 0, **{f"layer{s + 1}.{b}": 1 + 2 * s + b for s in range(4) for b in range(2)}},
        8,
    ),
    # timm knows its stages.
    "pvt_v2_b0": ({"patch_embed": 0, **{f"stages_{stage}": 1 + stage for stage in range(4)}}, 4),
    # 2, 2, 6 and 2 blocks; what makes their input coarser counts with the block in front of it.
    "swin_tiny_patch4_window7_224": (
        {
            "patch_embed": 0,
            **{
                f"layers_{s}.blocks.{b}": sum((2, 2, 6, 2)[:s]) + b + 1
                for s in range(4)
                for b in range((2, 2, 6, 2)[s])
            },
            **{f"layers_{s}.downsample": sum((2, 2, 6, 2)[:s]) + 1 for s in range(1, 4)},
        },
        12,
    ),
    # Its form for features is another than the others'.
    "vit_tiny_patch16_224": (
        {
            **dict.fromkeys(("model.cls_token", "model.pos_embed", "model.patch_embed"), 0),
            **{f"model.blocks.{block}": 1 + block for block in range(12)},
            "model.norm": 12,
        },
        12,
    ),
}


@pytest.mark.parametrize("name", TIMM_LAYERS)
def test_layers_of_timm_models_are_timms(name, tiny_config):
    layers, top = TIMM_LAYERS[name]
    strides = [16] if name.startswith("vit") else [8, 16, 32]
    options = {"img_size": 64, "dynamic_img_size": True} if name.startswith("vit") else {}
    backbone = TimmBackbone(name, strides, output_norm=True, options=options)

    def depth(own: str) -> int:
        if own.startswith("output_norms."):
            return 0
        number = [layer for start, layer in layers.items() if f"{own}.".startswith(f"model.{start}.")]
        assert len(number) == 1, own
        return 1 + top - number[0]

    assert_rates(tiny_config("SOLVER.LAYER_DECAY", "0.5"), backbone, depth)


def test_groups_are_named_by_rate_and_weight_decay(tiny_config):
    cfg = tiny_config("SOLVER.LAYER_DECAY", "0.5", "SOLVER.WEIGHT_DECAY_BIAS", "0.0")
    model = torch.nn.ModuleDict({"backbone": TimmBackbone("pvt_v2_b0", [8, 16, 32]), "head": torch.nn.Linear(2, 2)})
    names = [group["name"] for group in build_optimizer(cfg, model).param_groups]
    assert names[:2] == ["lr_x1_wd_0.0001", "lr_x1_wd_0"]
    assert names[-1] == "lr_x0.003125_wd_0"
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("decay", ["0.0", "1.5"])
def test_layer_decay_outside_its_range_is_refused(tiny_config, decay):
    with pytest.raises(ValueError, match=f"SOLVER.LAYER_DECAY is {decay}: set it to more than 0"):
        build_optimizer(tiny_config("SOLVER.LAYER_DECAY", decay), torch.nn.Linear(1, 1))


def test_layer_decay_without_a_known_backbone_is_refused(tiny_config):
    with pytest.raises(ValueError, match=r"SOLVER.LAYER_DECAY needs a backbone whose layers are known"):
        build_optimizer(tiny_config("SOLVER.LAYER_DECAY", "0.9"), torch.nn.Linear(1, 1))
