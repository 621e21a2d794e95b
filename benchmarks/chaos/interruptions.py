"""Trainings that are killed, asked to stop, or lose a loader process: continued, they end with the same bits."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

from detectron2.engine import HookBase
from trainings import Row, config, differences, run, start, train, wait

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# A process that was asked to stop and goes on for so many seconds did not hear.
PATIENCE = 120


def kill_often(folder: Path, number: int, expected: dict[str, object], duration: float) -> Row:
    """Kill trainings (kill -9 of all their processes) at random moments and continue them, until they end."""
    moments, losses, killed, lives = random.Random(0), [], 0, 0
    while killed < number:
        output, log = folder / f"killed_{lives}", folder / "log.txt"
        cfg = config(output)
        while True:
            pid = start(lambda cfg=cfg: train(cfg), log)
            time.sleep(moments.uniform(0, duration))
            has_ended, status = os.waitpid(pid, os.WNOHANG)
            if has_ended:
                code = os.waitstatus_to_exitcode(status)
                break
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
            if killed >= number:
                code = run(lambda cfg=cfg: train(cfg), log).code
                break
        lives += 1
        losses += [f"exit code {code}"] if code else differences(output, expected)
    fault = f"`kill -9` at random moments, {lives} trainings"
    return Row(fault, killed, "weights, optimizer, schedule, EMA equal to the last bit", losses)


def ask_to_stop(folder: Path, number: int, expected: dict[str, object], duration: float) -> Row:
    """Send the signals that announce an end, and continue."""
    moments, losses, tried = random.Random(1), [], 0
    for index in range(number):
        output, log, asked = folder / f"asked_{index}", folder / "log.txt", SIGNALS[index % len(SIGNALS)]
        cfg = config(output, SOLVER__CHECKPOINT_PERIOD="1000")
        started = folder / f"started_{index}"
        pid = start(lambda cfg=cfg, started=started: train(cfg, lambda own: own.register_hooks([_Flag(started)])), log)
        _wait_for(started)
        time.sleep(moments.uniform(0, duration / 4))
        os.kill(pid, asked)
        ended = wait(pid, log)
        tried += 1
        if ended.code not in (0, 128 + asked):
            losses.append(f"{asked.name}: exit code {ended.code}")
            continue
        run(lambda cfg=cfg: train(cfg), log)
        losses += [f"{asked.name}: {lost}" for lost in differences(output, expected)]
    outcome = "a checkpoint behind the step, exit code 128 + n; continued, bits as above"
    return Row("SIGTERM, Ctrl-C, SIGUSR1", tried, outcome, losses)


def kill_loader(folder: Path, expected: dict[str, object]) -> Row:
    """Kill the process that reads pictures: the training ends with a message, and is continued."""
    output, log = folder / "loader", folder / "log.txt"
    cfg = config(output)

    def lose_loader() -> None:
        train(cfg, lambda trainer: trainer.register_hooks([_LoaderKiller()]))

    ended, losses = run(lose_loader, log), []
    if ended.code == 0 or "DataLoader worker" not in ended.text:
        losses.append(f"exit code {ended.code} without a word of the loader")
    run(lambda: train(cfg), log)
    losses += differences(output, expected)
    return Row("loader process killed", 1, "ends with a message within seconds; continued, bits as above", losses)


class _Flag(HookBase):
    """Tells other processes, by a file, that steps have begun."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_step(self) -> None:
        self.path.touch()


class _LoaderKiller(HookBase):
    """Kills the training's children after five steps."""

    def after_step(self) -> None:
        if self.trainer.iter == 4:
            for process in multiprocessing.active_children():
                process.kill()


def _wait_for(path: Path) -> None:
    for _ in range(10 * PATIENCE):
        if path.exists():
            return
        time.sleep(0.1)
    raise TimeoutError(f"{path} did not appear within {PATIENCE} s")
