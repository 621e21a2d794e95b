"""Processes that end in every way: the comparison gets a result from each."""

from __future__ import annotations

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


def test_result_is_handed_on_whatever_the_exit_code(run):
    lines = ["from pathlib import Path", "from panoptic_segformer.comparison.job import JobResult"]
    write = "JobResult(error='ValueError: no').write(Path(sys.argv[1]).with_name('result.json'))"
    assert run(*lines, write, "sys.exit(1)") == JobResult(error="ValueError: no")


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
    run("print('progress: 3 of 9 pictures')", "print('noise')")
    assert "the model: 3 of 9 pictures" in caplog.text
    assert "noise" not in caplog.text
