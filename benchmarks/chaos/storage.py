"""Disks that are full, folders that can't be written, and checkpoints that were damaged afterwards."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from trainings import MAX_ITER, Row, config, differences, run, train

from panoptic_segformer.training.output_folder import check_writable

# Bytes that a file may have while the disk is "full": logs fit, checkpoints don't.
SMALL = 1_000_000


def fill_disk(folder: Path, expected: dict[str, object]) -> Row:
    """Let checkpoints fail half-written, in the middle of a training, for as long as several periods."""
    losses, moments = [], ((0, 5), (3, 9), (5, MAX_ITER - 1))
    for first, last in moments:
        output, log = folder / f"full_{first}", folder / "log.txt"
        ended = run(partial(_train_on_full_disk, config(output), first, last), log)
        lost = differences(output, expected)
        if ended.code or "could not be written" not in ended.text or lost:
            losses.append(f"steps {first} to {last}: exit code {ended.code}, {lost or 'no message'}")
    outcome = "said; the training ends with the same bits"
    return Row("disk full while checkpoints are written", len(moments), outcome, losses)


def fill_disk_at_the_end(folder: Path, expected: dict[str, object]) -> Row:
    """Let the final checkpoint fail: an error, and with space the last periods are done again."""
    output, log = folder / "full_at_end", folder / "log.txt"
    cfg = config(output)
    ended = run(partial(_train_on_full_disk, cfg, MAX_ITER - 2, MAX_ITER), log)
    losses = [] if ended.code and "make space" in ended.text else [f"exit code {ended.code}"]
    run(lambda: train(cfg), log)
    losses += differences(output, expected)
    return Row("disk full at the final checkpoint", 1, "an error; continued with space, the same bits", losses)


def damage_checkpoints(folder: Path, expected: dict[str, object]) -> Row:
    """Damage the last checkpoint of a stopped training in all ways that come to mind, and continue it."""
    whole, log = folder / "stopped", folder / "log.txt"
    half = config(whole)

    def stop_halfway() -> None:
        def shorten(trainer: object) -> None:
            trainer.max_iter = MAX_ITER // 2

        train(half, shorten)

    run(stop_halfway, log)
    (whole / "model_final.pth").unlink()  # of the half: the numbered one of the same step stays
    (whole / "last_checkpoint").write_text(_last(whole).name)
    losses = []
    for name, damage in DAMAGES.items():
        output = folder / f"damaged_{name.replace(' ', '_')}"
        shutil.copytree(whole, output)
        damage(output)
        cfg = config(output)
        ended = run(lambda cfg=cfg: train(cfg), log)
        lost = differences(output, expected)
        losses += [f"{name}: exit code {ended.code}, {lost}"] if ended.code or lost else []
    fault = f"last checkpoint damaged: {', '.join(DAMAGES)}"
    return Row(fault, len(DAMAGES), "the one before is used; the same bits", losses)


def forbid_writing(folder: Path) -> Row:
    """Give output folders that can't be written: an error before anything is computed."""
    (folder / "a_file").write_text("not a folder")
    (folder / "loop").symlink_to(folder / "loop")
    places = [
        folder / "a_file",
        folder / "a_file/below",
        folder / "loop",
        Path("/proc/no_folder"),
        Path("/dev/null/below"),
    ]
    losses = []
    for place in places:
        try:
            check_writable(place)
        except OSError as error:
            losses += [] if "OUTPUT_DIR" in str(error) else [f"{place.name}: {error}"]
        else:
            losses.append(f"{place.name}: taken for writable")
    return Row("output folder that can't be written", len(places), "an error at the start that names it", losses)


def _train_on_full_disk(cfg: CfgNode, first: int, last: int) -> None:
    train(cfg, lambda trainer: trainer.register_hooks([_FullDisk(first, last)]))


class _FullDisk(HookBase):
    """Lets the system refuse larger files from one step to another."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def before_step(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error from the call, as on a full disk
        if self.trainer.iter == self.first:
            self._limit(SMALL)
        if self.trainer.iter == self.last:
            self._limit(resource.RLIM_INFINITY)

    @staticmethod
    def _limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _last(folder: Path) -> Path:
    return max(folder.glob("model_0*.pth"))


def _cut(folder: Path) -> None:
    os.truncate(_last(folder), _last(folder).stat().st_size // 2)


def _change_byte(folder: Path) -> None:
    content = bytearray(_last(folder).read_bytes())
    content[len(content) // 3] ^= 1
    _last(folder).write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": _cut,
    "empty": lambda folder: _last(folder).write_bytes(b""),
    "zeros": lambda folder: _last(folder).write_bytes(bytes(_last(folder).stat().st_size)),
    "one bit": _change_byte,
    "removed": lambda folder: _last(folder).unlink(),
    "other content": lambda folder: _last(folder).write_text("<html>quota exceeded</html>"),
    "no tag": lambda folder: (folder / "last_checkpoint").unlink(),
    "empty tag": lambda folder: (folder / "last_checkpoint").write_text(""),
    "wrong tag": lambda folder: (folder / "last_checkpoint").write_text("../elsewhere.pth"),
    "binary tag": lambda folder: (folder / "last_checkpoint").write_bytes(b"\xff\x00\xfe"),
}
