from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segformer.profiling.memory import MemoryUnknownError
from panoptic_segformer.training import reporting
from panoptic_segformer.training.reporting import StepReport, group_losses
from panoptic_segformer.training.trainer import PanopticTrainer

LOSSES = {
    "loss_class_0": 1.0,
    "loss_class_1": 2.0,
    "loss_box_0": 4.0,
    "loss_giou_0": 8.0,
    "loss_mask_thing_0": 16.0,
    "loss_mask_thing_final": 32.0,
    "loss_class_stuff_0": 64.0,
    "loss_mask_stuff_final": 128.0,
}


def test_losses_are_summed_by_term_and_by_segments():
    expected = {"class": 67, "box": 4, "giou": 8, "mask": 176, "things": 63, "stuff": 192}
    assert group_losses({**LOSSES, "total_loss": 255.0, "time": 1.0}) == expected


def test_joint_queries_have_no_losses_of_things_alone():
    losses = {"loss_box_0": 1.0, "loss_class_joint_0": 2.0, "loss_mask_joint_final": 4.0}
    assert group_losses(losses) == {"box": 1, "class": 2, "mask": 4}


def test_losses_of_other_models():
    of_detr = {
        "loss_ce": 1.0,
        "loss_ce_0": 2.0,
        "loss_bbox": 4.0,
        "loss_giou": 8.0,
        "loss_mask": 16.0,
        "loss_dice": 32.0,
    }
    assert group_losses(of_detr) == {"class": 3, "box": 4, "giou": 8, "mask": 48}
    of_fcn = {"loss_pos_th": 1.0, "loss_pos_st": 2.0, "loss_seg_th": 4.0, "loss_seg_st": 8.0}
    assert group_losses(of_fcn) == {"pos": 3, "seg": 12, "things": 5, "stuff": 10}
    assert group_losses({"loss_sem_seg": 1.0, "loss_center": 2.0}) == {"sem": 1, "center": 2}


@given(st.dictionaries(st.sampled_from(sorted(LOSSES)), st.integers(0, 1000).map(float)))
def test_both_ways_of_summing_have_the_same_total(losses):
    sums = group_losses(losses)
    segments = sums.pop("things", 0.0) + sums.pop("stuff", 0.0)
    assert sum(sums.values()) == sum(losses.values())
    assert segments in (0.0, sum(losses.values()))


def scalars(storage: EventStorage) -> dict[str, float]:
    return {name: value for name, (value, _) in storage.latest().items()}


@pytest.fixture
def hook(tiny_config):
    """The hook in a training of three groups of parameters, the second of which has half its rate left."""
    report = StepReport(tiny_config("SOLVER.IMS_PER_BATCH", "8", "SOLVER.BASE_LR", "0.1"))
    groups = [{"lr": 0.1, "initial_lr": 0.1}, {"lr": 0.005, "initial_lr": 0.01}, {"lr": 0.005, "initial_lr": 0.01}]
    with EventStorage(5) as storage:
        report.trainer = SimpleNamespace(storage=storage, optimizer=SimpleNamespace(param_groups=groups))
        yield report


def test_rates_are_those_of_the_step_by_their_factor(hook):
    hook.before_step()
    assert scalars(hook.trainer.storage) == {"learning_rates/1": 0.1, "learning_rates/0.1": 0.005}


def test_speed_counts_the_pictures_of_all_ranks(hook):
    storage = hook.trainer.storage
    storage.put_scalars(time=2.0, data_time=0.5)
    hook.after_step()
    found = scalars(storage)
    assert (found["pictures_per_second"], found["data_share"]) == (4.0, 0.25)
    assert found["memory_mb"] > 50  # torch alone has more


def test_old_figures_are_not_counted_again(hook):
    storage = hook.trainer.storage
    storage.put_scalars(time=2.0, loss_class_0=1.0)
    storage.step()
    hook.after_step()
    assert not {"pictures_per_second", "losses/class"} & set(scalars(storage))


def test_memory_is_left_out_where_the_system_does_not_tell(hook, monkeypatch):
    def fail():
        raise MemoryUnknownError("no")

    monkeypatch.setattr(reporting, "most_resident_bytes", fail)
    hook.after_step()
    assert scalars(hook.trainer.storage) == {}


def test_memory_of_a_gpu_is_that_of_torch(hook, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    hook.after_step()
    assert scalars(hook.trainer.storage)["memory_mb"] == 3


def test_training_reports_groups_beside_layers(tiny_config, tmp_path, caplog):
    cfg = tiny_config("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "4")
    (tmp_path / "output").mkdir()
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=False)
    with caplog.at_level("INFO", logger="detectron2.utils.events"):
        trainer.train()
    line = json.loads((tmp_path / "output/metrics.json").read_text().splitlines()[-1])
    for term in ("class", "box", "giou", "mask"):
        layers = [name for name in line if name.startswith(f"loss_{term}_")]
        assert len(layers) >= 2
        history = trainer.storage.history(f"losses/{term}").latest()
        assert history == pytest.approx(sum(trainer.storage.history(name).latest() for name in layers))
    latest = scalars(trainer.storage)
    assert latest["losses/things"] + latest["losses/stuff"] == pytest.approx(latest["total_loss"])
    assert latest["pictures_per_second"] == pytest.approx(2 / latest["time"])
    assert 0 <= latest["data_share"] <= 1
    assert {"learning_rates/1", "learning_rates/0.1", "lr", "memory_mb"} <= line.keys()
