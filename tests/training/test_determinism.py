"""Two trainings with the same seed end in the same bits."""

from __future__ import annotations

import os

import pytest
import torch
from detectron2.engine import default_argument_parser

from panoptic_segformer.training.determinism import set_determinism
from tiny import import_train_net, tiny_overrides


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_equal_trainings_are_equal_to_the_bit(tiny_config, tmp_path, config_dir):
    train_net = import_train_net()
    config = str(config_dir / "synthetic/panoptic_segformer_lite0.yaml")

    def train(name: str, seed: int) -> dict[str, torch.Tensor]:
        words = [*tiny_overrides(tmp_path / name), "SEED", str(seed), "SOLVER.DETERMINISTIC", "True"]
        # Augmentation and dropout draw random numbers as well.
        words += ["MODEL.PANOPTIC_SEGFORMER.DROPOUT", "0.1", "INPUT.CROP_RESIZE.PROB", "0.5", "DATASETS.TEST", "()"]
        words += ["INPUT.CROP_RESIZE.CROP_MIN", "48", "INPUT.CROP_RESIZE.CROP_MAX", "64"]
        words += ["INPUT.CROP_RESIZE.SHORT_SIDES", "[72]"]
        train_net.main(default_argument_parser().parse_args(["--config-file", config, *words]))
        assert torch.are_deterministic_algorithms_enabled()
        return torch.load(tmp_path / name / "output/model_final.pth")["model"]

    first, again, other = train("first", 1), train("again", 1), train("other", 2)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_mode_is_set_where_it_is_asked_for(tiny_config, monkeypatch):
    set_determinism(tiny_config())
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    set_determinism(tiny_config("SOLVER.DETERMINISTIC", "True"))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_workspace_that_the_user_chose_is_kept(tiny_config):
    set_determinism(tiny_config("SOLVER.DETERMINISTIC", "True"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_step_has_a_deterministic_form_on_a_gpu(tiny_config):
    from detectron2.data import DatasetCatalog
    from detectron2.modeling import build_model

    from panoptic_segformer.data.mapper import PanopticDatasetMapper

    cfg = tiny_config("SOLVER.DETERMINISTIC", "True", "MODEL.DEVICE", "cuda")
    set_determinism(cfg)
    gradients = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_model(cfg).train()
        mapper = PanopticDatasetMapper(cfg, is_train=True)
        sum(model([mapper(DatasetCatalog.get("synthetic_train")[0])]).values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())
