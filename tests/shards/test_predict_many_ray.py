"""Large predictions with two workers of Ray: a run is killed, gone on with, a worker is killed, and nothing is lost.

Few tests for all of it: Ray takes a quarter of a minute to start.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from panoptic_segformer.cli import main
from panoptic_segformer.data.synthetic import write_scenes
from panoptic_segformer.shards.ray_workers import MOST_ATTEMPTS

pytest.importorskip("ray.data", reason="predicting by several workers needs Ray, the extra `ray`")

SHARDS, SHARD_SIZE, BROKEN = 12, 4, 17
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 and ::1
LONGEST_WAIT = 500  # Seconds; nothing waits for it where all is well.


# Python reads sitecustomize.py at its start.
DEADLY = """
import os, signal
from PIL import Image
opened = Image.open
def deadly(file, *arguments, **options):
    if "p000005.jpg" in str(file):
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(file, *arguments, **options)
Image.open = deadly
"""


@pytest.fixture(scope="module")
def many_pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "pictures"
    folder.mkdir()
    write_scenes(folder.parent / "scenes", SHARDS * SHARD_SIZE, seed=6, size=(64, 96))
    for number, path in enumerate(sorted((folder.parent / "scenes/images").iterdir())):
        shutil.copy(path, folder / path.name)
        if number == BROKEN:
            (folder / path.name).write_bytes(b"no picture")
    return folder


def finished(output: Path) -> dict[str, int]:
    """Return the finished shards with the time of each."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "predictions").glob("shard_*")}


def attempts(output: Path) -> list[tuple[str, int]]:
    """Return the shards that are being written, each with its process."""
    names = [path.name.split(".") for path in (output / "predictions").glob(".shard_*.partial")]
    return [(name, int(pid)) for _, name, pid, _ in names]


def wait_for(condition: Callable[[], object], run: subprocess.Popen) -> object:
    end = time.monotonic() + LONGEST_WAIT
    while not (value := condition()):
        assert run.poll() is None, "the run ended too early"
        assert time.monotonic() < end
        time.sleep(0.005)
    return value


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def family(pid: int) -> set[int]:
    """Return a process and all that it started, as far as their parents live."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: set[int]) -> set[str]:
    """Return the addresses, as Linux writes them, at which processes wait for connections."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(file))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {words[1].partition(":")[0] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in sockets}


@contextmanager
def started(words: list[str], log: Path) -> Iterator[subprocess.Popen]:
    with log.open("wb") as said:
        run = subprocess.Popen([sys.executable, "-m", "panoptic_segformer.cli", *words], stdout=said, stderr=said)
    try:
        yield run
    finally:
        run.kill()
        run.wait()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked at in /proc, which Linux has")
def test_killed_run_and_killed_worker_lose_nothing_and_do_nothing_twice(words, many_pictures, tmp_path):
    output = tmp_path / "out"
    size = ["INPUT.MIN_SIZE_TEST", "320"]  # So that a shard takes a second.
    plain = [*words(tmp_path / "plain", shard_size=SHARD_SIZE, inputs=many_pictures), *size]
    many = [*words(output, "--workers", "2", shard_size=SHARD_SIZE, inputs=many_pictures), *size]

    with started(many, tmp_path / "first.txt") as run:
        wait_for(lambda: len(finished(output)) >= 2, run)
        of_first = {pid for _, pid in wait_for(lambda: attempts(output), run)}
        addresses = listening(family(run.pid))
        run.kill()  # As kill -9.
        assert run.wait() == -signal.SIGKILL
    assert addresses
    assert addresses <= LOOPBACK
    end = time.monotonic() + LONGEST_WAIT
    while any(map(is_alive, of_first)):  # Ray ends its workers when the process that started it is gone.
        assert time.monotonic() < end
        time.sleep(0.1)
    before = finished(output)
    assert 2 <= len(before) < SHARDS - 2
    assert not (output / "predictions.json").exists()

    with started(many, tmp_path / "second.txt") as run:
        wait_for(lambda: len(finished(output)) > len(before), run)
        shard, worker = wait_for(lambda: attempts(output), run)[0]
        assert worker not in of_first
        os.kill(worker, signal.SIGKILL)
        assert run.wait(LONGEST_WAIT) == 1, (tmp_path / "second.txt").read_text()  # One picture is broken.
    after = finished(output)
    assert sorted(after) == [f"shard_{number:06d}" for number in range(SHARDS)]
    assert {name: after[name] for name in before} == before
    tries = {path.name: path.stat().st_size for path in (output / ".attempts").iterdir()}
    assert tries == {name: 2 if name == shard else 1 for name in after if name not in before}
    assert attempts(output) == []

    assert main(plain) == 1
    content = json.loads((output / "predictions.json").read_text())
    names = [image["file_name"] for image in content["images"]] + [one["file_name"] for one in content["failures"]]
    assert sorted(names) == sorted(path.name for path in many_pictures.iterdir())
    assert len(content["failures"]) == 1
    assert_equal_folders(output, tmp_path / "plain")


@pytest.mark.slow
def test_shard_that_kills_its_workers_is_given_up_and_the_others_are_done(words, pictures, tmp_path, monkeypatch):
    """Whoever opens one of the pictures dies, as by an error in a decoder's C code."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(DEADLY)
    search_path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", search_path)
    with started(words(tmp_path / "out", "--workers", "1"), tmp_path / "said.txt") as run:
        assert run.wait(LONGEST_WAIT) == 1
    said = (tmp_path / "said.txt").read_text()
    assert "1 of 4 shards are missing, first shard_000001: no worker survived" in said
    assert sorted(finished(tmp_path / "out")) == ["shard_000000", "shard_000002", "shard_000003"]
    assert (tmp_path / "out/.attempts/shard_000001").stat().st_size == MOST_ATTEMPTS + 1
    assert not (tmp_path / "out/predictions.json").exists()


def assert_equal_folders(first: Path, second: Path) -> None:
    files = [sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file()) for one in (first, second)]
    kept = [[path for path in paths if not path.parts[0].startswith(".")] for paths in files]
    assert kept[0] == kept[1]
    same, different, wrong = filecmp.cmpfiles(first, second, kept[0], shallow=False)
    assert len(same) == len(kept[0]) > SHARDS * SHARD_SIZE
    assert different == wrong == []
