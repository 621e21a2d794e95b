from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.utils.events import EventStorage, EventWriter, JSONWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from panoptic_segformer.training.trainer import PanopticTrainer
from panoptic_segformer.training.writers import Console, SurvivingWriter, build_writers, keep_metrics_before


class Flaky(EventWriter):
    """Fails with a full disk where it is told to."""

    def __init__(self, fails: list[bool]):
        self.fails = fails

    def write(self):
        if self.fails.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failure_is_logged_when_it_begins_and_when_it_ends(caplog):
    flaky = Flaky([False, True, True, False, True, True])
    writer = SurvivingWriter("metrics.json", lambda: flaky)
    with caplog.at_level(logging.INFO):
        for _ in range(8):  # one goes well, one fails, one is left out, one fails, three are left out, one goes well
            writer.write()
        assert flaky.fails == [True, True]
        writer.write()
        writer.close()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["ERROR", "WARNING", "ERROR", "ERROR"]
    assert "metrics.json can't be written ([Errno 28] No space left on device)" in said[0][1]
    assert said[1][1] == "metrics.json can be written again"
    assert "can't be closed" in said[3][1]


def test_tries_become_rare_but_do_not_end(caplog):
    flaky = Flaky([True] * 100)
    writer = SurvivingWriter("metrics.json", lambda: flaky)
    for _ in range(1000):
        writer.write()
    # Writes 1, 3, 7, 15, 31, 63 and from then on each 64th.
    assert 100 - len(flaky.fails) == 6 + (1000 - 63) // 64


@pytest.mark.parametrize("left_out", [0, 1])
def test_what_was_left_out_is_written_in_the_end(caplog, left_out):
    flaky = Flaky([True, False])
    writer = SurvivingWriter("metrics.json", lambda: flaky)
    for _ in range(1 + left_out):
        writer.write()
    writer.close()
    assert flaky.fails == []
    assert "can be written again" in caplog.text


def test_only_what_a_disk_does_is_survived():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        SurvivingWriter("x", fail).write()


def test_a_writer_that_never_wrote_is_not_opened_to_be_closed():
    SurvivingWriter("x", lambda: pytest.fail("opened")).close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
def test_metrics_on_a_full_disk(caplog):
    writer = SurvivingWriter("metrics.json", lambda: JSONWriter("/dev/full"))
    with EventStorage(0) as storage:
        for _ in range(3):
            storage.put_scalar("loss", 1.0)
            writer.write()
            storage.step()
        writer.close()
    assert sum("can't be written" in record.getMessage() for record in caplog.records) == 1


def test_training_ends_well_without_a_place_for_figures(tiny_config, tmp_path, caplog, monkeypatch):
    """A folder stands where metrics.json shall be, and a disk is full for TensorBoard."""
    cfg = tiny_config("DATASETS.TEST", "()")
    output = tmp_path / "output"
    (output / "metrics.json").mkdir(parents=True)
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.start_iter = 1  # a start at 0 would put the folder aside
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.flush", Flaky([True, True]).write)
    trainer.train()
    assert (output / "model_final.pth").is_file()
    assert "metrics.json can't be written" in caplog.text
    assert "TensorBoard's file in" in caplog.text


def write_lines(path: Path, iterations: list[int], end: str = "") -> None:
    path.write_text("".join(f'{{"iteration": {number}, "x": NaN}}\n' for number in iterations) + end)


def iterations(path: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()]


def test_resuming_drops_lines_that_are_written_again_and_one_cut_short(tmp_path):
    path = tmp_path / "metrics.json"
    write_lines(path, [19, 39, 40, 59], end='{"iteration": 2, "lo')
    keep_metrics_before(path, 40)
    assert iterations(path) == [19, 39]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_a_new_training_puts_an_earlier_ones_metrics_aside(tmp_path):
    path = tmp_path / "metrics.json"
    for number in (1, 2):
        write_lines(path, [number])
        keep_metrics_before(path, 0)
        assert not path.exists()
        assert iterations(tmp_path / f"metrics_{number}.json") == [number]
    keep_metrics_before(path, 0)
    keep_metrics_before(path, 7)
    assert not path.exists()


def test_metrics_of_a_resumed_training_have_each_iteration_once(tiny_config, tmp_path):
    output = tmp_path / "output"

    def train(max_iter: int, resume: bool) -> None:
        trainer = PanopticTrainer(tiny_config("DATASETS.TEST", "()", "SOLVER.MAX_ITER", str(max_iter)))
        trainer.resume_or_load(resume=resume)
        trainer.train()

    output.mkdir()
    train(2, resume=False)
    with open(output / "metrics.json", "a") as file:  # as if it had gone on before it was killed
        file.write('{"iteration": 2}\n{"iteration": 3}\n')
    train(4, resume=True)
    assert iterations(output / "metrics.json") == [1, 3]
    events = EventAccumulator(str(output), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("total_loss")] == [1, 3]


def test_tensorboard_goes_on_in_a_new_file_after_a_failure(tmp_path, caplog):
    folder = tmp_path / "output"
    folder.write_text("in the way")
    writer = build_writers(str(folder), 10, lambda: 0)[2]
    with EventStorage(0) as storage:
        storage.put_scalar("loss", 1.0)
        writer.write()
        storage.step()
        assert "TensorBoard's file in" in caplog.text
        folder.unlink()
        storage.put_scalar("loss", 2.0)
        writer.write()
        writer.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1]


def test_pictures_that_can_not_be_written_are_not_kept(tmp_path):
    folder = tmp_path / "output"
    folder.write_text("in the way")
    writer = build_writers(str(folder), 10, lambda: 0)[2]
    with EventStorage(0) as storage:
        storage.put_image("x", np.zeros((3, 4, 4), np.uint8))
        writer.write()
        assert not storage._vis_data


def test_console_prints_one_short_line(caplog):
    with EventStorage(19) as storage, caplog.at_level("INFO", logger="detectron2.utils.events"):
        for layer in range(30):
            storage.put_scalar(f"loss_mask_thing_{layer}", 1.0)
        storage.put_scalars(total_loss=30.0, grad_norm=2.5, time=0.5)
        storage.put_scalar("losses/mask", 30.0)
        storage.put_scalar("data_share", 0.034)
        storage.put_scalar("lr", 1e-4, smoothing_hint=False)
        Console(100).write()
        storage.iter = 100
        Console(100).write()
    (record,) = caplog.records
    expected = "eta: 0:00:40  iter: 19  total_loss: 30  mask: 30  grad_norm: 2.5  data: 3%  lr: 0.0001"
    assert record.getMessage() == expected
