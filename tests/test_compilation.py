"""torch.compile of the network's parts: the same numbers, names and sizes as without."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from panoptic_segformer import compilation
from panoptic_segformer.compilation import compile_parts
from panoptic_segformer.profiling.training import training_examples
from panoptic_segformer.training.optimizer import build_optimizer

COMPILE = ("MODEL.PANOPTIC_SEGFORMER.COMPILE", "True")
NO_DROPOUT = ("MODEL.PANOPTIC_SEGFORMER.DROPOUT", "0.0")
# What dynamo needs it says in these.
COUNTERS = torch._dynamo.utils.counters


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    COUNTERS.clear()
    yield
    torch._dynamo.reset()


def parts(model) -> list[torch.nn.Module]:
    return [model.encoder, model.location_decoder, model.thing_mask_decoder, model.stuff_mask_decoder]


def tiny_models(tiny_config, *overrides: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return two equal models."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model(tiny_config(*NO_DROPOUT, *overrides)))
    return tuple(models)


def examples(model, *sizes: tuple[int, int]) -> list[dict[str, object]]:
    return [training_examples(model.categories, size, 1)[0] for size in sizes]


def train_step(model, optimizer, batch) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Return the losses of one step, and its gradients."""
    optimizer.zero_grad()
    losses = model(batch)
    sum(losses.values()).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}, gradients


def assert_same_training(plain, compiled, cfg, *batches) -> None:
    optimizers = [build_optimizer(cfg, model) for model in (plain, compiled)]
    for batch in batches:
        expected, gradients = train_step(plain.train(), optimizers[0], batch)
        actual, own_gradients = train_step(compiled.train(), optimizers[1], batch)
        assert actual == pytest.approx(expected, rel=1e-3)
        assert len(gradients) == len(own_gradients) > 100
        for own, gradient in zip(own_gradients, gradients, strict=True):
            assert torch.allclose(own, gradient, rtol=1e-2, atol=1e-3 * gradient.abs().max().item() + 1e-6)


def test_names_stay_as_they_are(tiny_config, monkeypatch):
    monkeypatch.setattr(compilation, "check_compiler", lambda *_: None)
    plain, compiled = build_model(tiny_config()), build_model(tiny_config(*COMPILE))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert all(part._compiled_call_impl is not None for part in parts(compiled))
    compiled.load_state_dict(plain.state_dict())


def test_without_a_compiler_the_key_is_named(tiny_config, monkeypatch):
    def refuse(*_):
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", lambda function: refuse)
    with pytest.raises(ValueError, match=r"compiler found\): install a C\+\+ compiler \(CXX\), or leave out MODEL"):
        build_model(tiny_config(*COMPILE))


@pytest.mark.slow
def test_any_sizes_run_in_one_piece(tiny_config):
    plain, compiled = tiny_models(tiny_config)
    compile_parts(parts(compiled), "cpu", "eager")
    graphs = []
    # Sides of levels that are the number of heads, levels or pictures would be taken for these, and compiled apart.
    for sizes in ([(288, 352)] * 3, [(288, 384), (224, 352), (352, 288)], [(352, 416), (288, 352), (224, 448)]):
        batch = examples(plain, *sizes)
        with torch.no_grad():
            results = [model.eval()(batch) for model in (plain, compiled)]
        for expected, actual in zip(*results, strict=True):
            assert torch.equal(expected["panoptic_seg"][0], actual["panoptic_seg"][0])
            assert torch.allclose(expected["instances"].scores, actual["instances"].scores, atol=1e-6)
        graphs.append(COUNTERS["stats"]["unique_graphs"])
    assert 0 < graphs[0] < graphs[1]  # one more form of encoder and location decoder, with padding
    assert graphs[1] == graphs[2]
    assert not COUNTERS["graph_break"]


@pytest.mark.slow
def test_layers_that_run_again_in_the_backward_pass_compile(tiny_config):
    plain, compiled = tiny_models(tiny_config, "MODEL.PANOPTIC_SEGFORMER.ACTIVATION_CHECKPOINTING", "True")
    compile_parts(parts(compiled), "cpu", "aot_eager")
    assert_same_training(plain, compiled, tiny_config(), examples(plain, (96, 128)))
    assert not COUNTERS["graph_break"]


@pytest.mark.slow
def test_compiled_model_computes_and_learns_the_same(tiny_config):
    plain, compiled = build_model(tiny_config(*NO_DROPOUT)), build_model(tiny_config(*NO_DROPOUT, *COMPILE))
    compiled.load_state_dict(plain.state_dict())
    batch = examples(plain, (96, 128))
    with torch.no_grad():
        expected, actual = (model.eval()(batch)[0] for model in (plain, compiled))
    assert torch.allclose(actual["instances"].scores, expected["instances"].scores, atol=1e-5)
    assert (actual["panoptic_seg"][0] == expected["panoptic_seg"][0]).float().mean() > 0.999
    assert_same_training(plain, compiled, tiny_config(), batch)
