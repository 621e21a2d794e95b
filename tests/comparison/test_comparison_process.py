"""Processes that end in every way: the comparison gets a result from each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from panoptic_segformer.comparison import process
from panoptic_segformer.comparison.job import Job, JobResult
from panoptic_segformer.comparison.process import run_in_process
from panoptic_segformer.comparison.spec import ModelSpec

JOB = Job(ModelSpec("the model", "config.yaml", "weights.pth"), [], "cache")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Function that runs lines of Python in the worker's place."""
    monkeypatch.setattr(process, "WORKER", "worker_of_this_test")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run_lines(*lines):
        (tmp_path / "worker_of_this_test.py").write_text("\n".join(["import os, sys, signal", *lines]))
        return run_in_process(JOB, tmp_path / "models/01")

    return run_lines


SLEEPING_CHILD = "import subprocess; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True)"


def is_alive(pid):
    """Whether a process runs; what has ended and waits for its parent does not."""
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def ends_soon(pid):
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


@pytest.mark.parametrize("end", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_result_is_handed_on_whatever_the_end(run, end):
    lines = ["from pathlib import Path", "from panoptic_segformer.comparison.job import JobResult"]
    write = "JobResult(error='ValueError: no').write(Path(sys.argv[1]).with_name('result.json'))"
    assert run(*lines, write, end) == JobResult(error="ValueError: no")


@pytest.mark.parametrize("end", ["sys.exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_children_of_the_process_neither_delay_its_end_nor_outlive_it(run, tmp_path, end):
    start = time.monotonic()
    assert run(SLEEPING_CHILD, end).error
    assert time.monotonic() - start < 30
    assert ends_soon(int((tmp_path / "models/01/log.txt").read_text()))


def test_interrupted_comparison_leaves_no_process(run, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(process.logger, "info", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("import time", "print(os.getpid())", "print('progress: all', flush=True)", "time.sleep(60)")
    assert ends_soon(int((tmp_path / "models/01/log.txt").read_text().split()[0]))


def test_worker_ends_with_the_comparison_that_started_it():
    code = f"from {process.__name__} import end_with_parent; end_with_parent(); {SLEEPING_CHILD}; child.wait()"
    pipe = subprocess.PIPE
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, start_new_session=True)
    with worker:
        child = int(worker.stdout.readline())
        assert worker.poll() is None
        worker.stdin.close()
        assert worker.wait(10) == -signal.SIGKILL
    assert ends_soon(child)


def test_old_result_is_no_result(run, tmp_path):
    (tmp_path / "models/01").mkdir(parents=True)
    JobResult().write(tmp_path / "models/01/result.json")
    assert "without a result (exit code 0)" in run("").error


def test_end_without_result_gives_exit_code_and_last_line(run, tmp_path):
    error = run("print('before')", "print('last words', file=sys.stderr)", "print()", "sys.exit(7)").error
    assert error == "the process ended without a result (exit code 7), last line 'last words'"
    assert (tmp_path / "models/01/log.txt").read_text().split() == ["before", "last", "words"]


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ("SIGKILL", "the process was killed by SIGKILL (for want of memory, most likely), last line ''"),
        ("SIGSEGV", "the process was killed by SIGSEGV, last line ''"),
    ],
)
def test_killed_process_names_the_signal(run, signal, message):
    assert run(f"os.kill(os.getpid(), signal.{signal})").error == message


def test_progress_is_passed_on_and_the_rest_is_not(run, caplog):
    caplog.set_level("INFO")
    run("print('progress: 3 of 9 pictures')", "print('noise')", "print('progress: the', 'end', end='')")
    assert "the model: 3 of 9 pictures" in caplog.text
    assert "the model: the end" in caplog.text
    assert "noise" not in caplog.text
