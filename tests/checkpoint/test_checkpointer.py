"""A good checkpoint is always there: whole files, full disks, damaged ones passed over."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer


class Counter:
    """Something of a training that is kept with the weights."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


@pytest.fixture
def saved(tmp_path: Path):
    """Checkpointer of a folder with the checkpoints of steps 1, 2 and 3, and its counter."""
    counter = Counter()
    checkpointer = PanopticCheckpointer(nn.Linear(64, 64), str(tmp_path), trainer=counter)
    for counter.value in (1, 2, 3):
        checkpointer.save(f"model_{counter.value:07d}", iteration=counter.value)
    return checkpointer, counter


def resumed(folder: Path) -> int:
    """Return the step that a new training in the folder goes on from."""
    counter = Counter()
    PanopticCheckpointer(nn.Linear(64, 64), str(folder), trainer=counter).resume_or_load("", resume=True)
    return counter.value


def test_last_checkpoint_is_resumed(saved, tmp_path: Path) -> None:
    assert resumed(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        *(f"model_{number:07d}.pth" for number in (1, 2, 3)),
    ]


@pytest.mark.parametrize("size", [0, 1, 100, 0.5, -1], ids=str)
def test_cut_off_checkpoint_makes_way_for_the_one_before(saved, tmp_path: Path, caplog, size) -> None:
    path = tmp_path / "model_0000003.pth"
    whole = path.stat().st_size
    os.truncate(path, {0.5: whole // 2, -1: whole - 1}.get(size, size))
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 2
    assert any("passing over" in record.message and path.name in record.message for record in caplog.records)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_changed_bit_is_noticed(saved, tmp_path: Path, place: float) -> None:
    """Torch itself would load it."""
    path = tmp_path / "model_0000003.pth"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    assert resumed(tmp_path) == 2


@pytest.mark.parametrize("tag", ["model_0000002.pth", "missing.pth", "", "../other.pth", "model_0000003.pth\n"])
def test_tag_may_be_wrong(saved, tmp_path: Path, tag: str) -> None:
    (tmp_path / "last_checkpoint").write_text(tag)
    assert resumed(tmp_path) == (2 if "2" in tag else 3)


def test_weights_of_somebody_else_are_no_checkpoint_of_a_training(saved, tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(64, 64).state_dict()}, tmp_path / "model_0000009.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert resumed(tmp_path) == 3


def test_without_a_good_checkpoint_nothing_is_started_anew(saved, tmp_path: Path) -> None:
    for path in tmp_path.glob("model_*.pth"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 3 checkpoints .*model_0000003.pth.*without --resume"):
        resumed(tmp_path)


def test_empty_folder_starts_anew(tmp_path: Path) -> None:
    assert resumed(tmp_path) == 0


def test_full_disk_leaves_the_earlier_ones(saved, tmp_path: Path, monkeypatch, caplog) -> None:
    checkpointer, counter = saved
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def write_half(content, file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", write_half)
    counter.value = 4
    with caplog.at_level(logging.ERROR):
        checkpointer.save("model_0000004", iteration=4)
    assert "No space left" in caplog.records[-1].message
    assert "the training goes on" in caplog.records[-1].message
    with pytest.raises(OSError, match=r"model_final.pth could not be written .*make space"):
        checkpointer.save("model_final", iteration=4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert resumed(tmp_path) == 3


def test_left_overs_of_a_killed_process_are_removed(saved, tmp_path: Path) -> None:
    checkpointer, _ = saved
    left_over = tmp_path / ".model_0000004.99999.partial.pth"
    left_over.write_bytes(b"half")
    checkpointer.save("model_0000004", iteration=4)
    assert not left_over.exists()
