"""Batch norm that learns: over a whole batch, and over those of several ranks."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from panoptic_segformer.modeling.backbone import TimmBackbone
from panoptic_segformer.profiling.training import training_examples

RESNET = (
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4', 'res5']"),
    *("MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.PANOPTIC_SEGFORMER.DROPOUT", "0.0"),
)


def resnet_model(config, norm: str):
    torch.manual_seed(0)
    return build_model(config(*RESNET, "MODEL.RESNETS.NORM", norm)).train()


def batch(model, *sizes: tuple[int, int]) -> list[dict[str, object]]:
    """Return examples of different pictures."""
    torch.manual_seed(1)
    examples = [training_examples(model.categories, size, 1)[0] for size in sizes]
    return [{**example, "image": torch.randint(0, 256, example["image"].shape).byte()} for example in examples]


def run_on_rank(rank: int, path: str, cfg, sizes) -> None:
    """Train one step on a rank's own pictures; rank 0 saves gradients and statistics."""
    from detectron2.utils import comm

    import panoptic_segformer.registration  # noqa: F401  a spawned process starts anew

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{path}.meeting", timedelta(minutes=5), rank=rank, world_size=2)
    comm.create_local_process_group(2)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    examples = batch(model, *(size for own in sizes for size in own))
    first = sum(len(own) for own in sizes[:rank])
    parallel = DistributedDataParallel(model)  # as Detectron2 wraps it, but on the CPU
    sum(parallel(examples[first : first + len(sizes[rank])]).values()).backward()
    if rank == 0:
        torch.save((gradients(model), model.state_dict()), path)
    distributed.destroy_process_group()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_two_ranks_share_statistics_and_gradients(tiny_config, tmp_path):
    model = resnet_model(tiny_config, "BN")
    size = (96, 128)
    cfg = tiny_config(*RESNET, "MODEL.RESNETS.NORM", "naiveSyncBN")
    path = str(tmp_path / "rank0.pth")
    multiprocessing.spawn(run_on_rank, (path, cfg, [[size], [size]]), nprocs=2)
    actual, state = torch.load(path, weights_only=True)
    sum(model(batch(model, size, size)).values()).backward()
    expected = gradients(model)
    assert set(actual) == set(expected)
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(actual[name], gradient, rtol=1e-2, atol=1e-4 * largest), name
    means = [name for name in state if name.endswith("running_mean")]
    assert len(means) > 15
    for name in means:
        assert torch.allclose(state[name], model.state_dict()[name], atol=1e-5), name


@pytest.mark.slow
def test_ranks_whose_pictures_differ_in_size_do_not_wait_for_each_other(tiny_config, tmp_path):
    resnet_model(tiny_config, "BN")  # registers the dataset
    cfg = tiny_config(*RESNET, "MODEL.RESNETS.NORM", "naiveSyncBN")
    path = str(tmp_path / "rank0.pth")
    sizes = [[(96, 128), (64, 96)], [(96, 96), (96, 96)]]
    multiprocessing.spawn(run_on_rank, (path, cfg, sizes), nprocs=2)  # gloo gives up if they wait
    assert all(gradient.isfinite().all() for gradient in torch.load(path, weights_only=True)[0].values())


def test_backbone_with_batch_norm_sees_a_batch_once(tiny_config):
    model = resnet_model(tiny_config, "BN")
    calls = []
    model.backbone.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    losses = model(batch(model, (96, 128), (64, 96)))
    assert calls == [(2, 3, 96, 128)]
    assert all(loss.isfinite() for loss in losses.values())
    calls.clear()
    with torch.no_grad():
        model.eval()(batch(model, (96, 128), (64, 96)))
    assert sorted(calls) == [(1, 3, 64, 96), (1, 3, 96, 128)]


def test_levels_of_one_size_are_the_same_either_way(tiny_config):
    model = resnet_model(tiny_config, "BN").double()  # group norm of few cells magnifies rounding
    images = model.preprocess(batch(model, (96, 128), (96, 128)))
    padded = model.padded_levels(images)
    model.has_batch_norm = False
    plain = model.extract_levels(images)
    assert padded.padding is None
    assert padded.sizes == plain.sizes
    for actual, expected in zip(padded.maps, plain.maps, strict=True):
        assert torch.allclose(actual, expected, atol=1e-8)


def test_padded_levels_have_the_sizes_of_their_pictures(tiny_config):
    model = resnet_model(tiny_config, "BN")
    images = model.preprocess(batch(model, (97, 131), (65, 96)))
    padded = model.padded_levels(images)
    model.has_batch_norm = False
    assert padded.sizes == model.extract_levels(images).sizes
    assert torch.equal(padded.padding, model.extract_levels(images).padding)


def test_timm_batch_norm_is_synchronised_with_its_activation(tiny_config):
    options = ("MODEL.TIMM.FREEZE_BATCH_NORM", "False", "MODEL.BACKBONE.FREEZE_AT", "0")
    plain = build_backbone(tiny_config(*options)).eval()
    synchronised = build_backbone(tiny_config(*options, "MODEL.TIMM.SYNC_BATCH_NORM", "True")).eval()
    kinds = {type(m) for m in synchronised.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds
    assert all(issubclass(kind, nn.SyncBatchNorm) for kind in kinds)
    assert list(synchronised.state_dict()) == list(plain.state_dict())
    synchronised.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for expected, actual in zip(plain(image).values(), synchronised(image).values(), strict=True):
            assert torch.allclose(actual, expected, atol=1e-5)


def test_frozen_batch_norm_has_nothing_to_share():
    with pytest.raises(ValueError, match="frozen batch norm has no statistics to share: set MODEL.TIMM.FREEZE"):
        TimmBackbone("resnet18", [8, 16, 32], sync_batch_norm=True)


def test_ranks_on_processors_are_told_what_to_take(tiny_config, tmp_path):
    assert resnet_model(tiny_config, "SyncBN")  # without ranks it is batch norm
    distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match=r"GPUs alone.*: set MODEL.RESNETS.NORM to naiveSyncBN"):
            resnet_model(tiny_config, "SyncBN")
    finally:
        distributed.destroy_process_group()
