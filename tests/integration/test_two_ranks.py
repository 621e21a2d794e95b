"""Two ranks with one picture each learn what one rank with both pictures learns."""

from __future__ import annotations

import socket

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from panoptic_segformer.data.mapper import PanopticDatasetMapper


def train_on_rank(rank, port, cfg, examples, path) -> None:
    """Compute the gradients of one picture of two, averaged over ranks; rank 0 saves them."""
    from detectron2.utils import comm

    import panoptic_segformer.registration  # noqa: F401  a spawned process starts anew

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    model = seeded_model(cfg)
    parallel = DistributedDataParallel(model)  # as Detectron2 wraps it, but on the CPU
    losses = parallel([examples[rank]])
    sum(losses.values()).backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, path)
    distributed.destroy_process_group()


def seeded_model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).train()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_gradients_of_two_ranks_equal_those_of_a_batch(tiny_config, tmp_path):
    cfg = tiny_config()
    model = seeded_model(cfg)  # registers the dataset
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    examples = [mapper(record) for record in DatasetCatalog.get("synthetic_train")]
    # One picture with things and one without: the ranks' counts differ, and no rank may wait for the other.
    examples = sorted(examples, key=lambda example: len(example["instances"]))[:: len(examples) - 1]
    path = tmp_path / "gradients.pth"
    multiprocessing.spawn(train_on_rank, (free_port(), cfg, examples, str(path)), nprocs=2)
    sum(model(examples).values()).backward()
    gradients = torch.load(path)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == set(expected)
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-3, atol=1e-5 * largest), name
