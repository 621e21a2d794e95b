"""Two ranks with one picture each learn what one rank with both pictures learns."""

from __future__ import annotations

import socket

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from torch import distributed, multiprocessing

from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.data.mapper import PanopticDatasetMapper
from panoptic_segformer.training.launching import parallel_model
from panoptic_segformer.training.optimizer import build_optimizer


def train_on_rank(rank, port, cfgs, examples, folder) -> None:
    """Take one step of each model on one picture of two; every rank saves what it has then."""
    from detectron2.utils import comm

    import panoptic_segformer.registration  # noqa: F401  a spawned process starts anew

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    for form, cfg in cfgs.items():
        model = seeded_model(cfg)
        torch.save(take_step(cfg, model, parallel_model(model), [examples[rank]]), f"{folder}/{form}{rank}.pth")
    distributed.destroy_process_group()


def seeded_model(cfg):
    """In float64, so that what remains of a difference is one of the method."""
    torch.manual_seed(0)
    return build_model(cfg).train().double()


def take_step(cfg, model, parallel, examples) -> dict[str, dict[str, torch.Tensor]]:
    optimizer = build_optimizer(cfg, model)
    losses = parallel(examples)
    sum(losses.values()).backward()
    # Clipping changes the gradients in place.
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return {
        "losses": {name: loss.detach() for name, loss in losses.items()},
        "gradients": gradients,
        "weights": weights,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_close(found, expected) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-5 * value.abs().max().item()), name


@pytest.mark.slow
def test_two_ranks_with_a_picture_each_equal_one_with_both(tiny_config, tmp_path):
    forms = ("decoupled", "joint")
    cfgs = {form: tiny_config("MODEL.PANOPTIC_SEGFORMER.QUERIES", form, "SOLVER.BASE_LR", "0.01") for form in forms}
    register_datasets(cfgs["joint"])
    mapper = PanopticDatasetMapper(cfgs["joint"], is_train=True)
    examples = [mapper(record) for record in DatasetCatalog.get("synthetic_train")]
    # One picture with things and one without: the ranks' counts differ, and no rank may wait for the other.
    examples = sorted(examples, key=lambda example: len(example["instances"]))[:: len(examples) - 1]
    multiprocessing.spawn(train_on_rank, (free_port(), cfgs, examples, str(tmp_path)), nprocs=2)
    for form, cfg in cfgs.items():
        ranks = [torch.load(tmp_path / f"{form}{rank}.pth") for rank in range(2)]
        model = seeded_model(cfg)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        expected = take_step(cfg, model, model, examples)
        # The mean over ranks is what is logged, and what gradients are of.
        first, second = (rank["losses"] for rank in ranks)
        assert first != second
        assert_close({name: (first[name] + second[name]) / 2 for name in first}, expected["losses"])
        for rank in ranks:
            assert_close(rank["gradients"], expected["gradients"])
            assert_close(rank["weights"], expected["weights"])
        moved = max((before[name] - weight).abs().max().item() for name, weight in expected["weights"].items())
        assert moved > 1e-3
