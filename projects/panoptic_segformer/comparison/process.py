"""Run one model in a process of its own: whatever happens there, the comparison goes on."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from .job import PROGRESS, RESULT_FILE, Job, JobResult

__all__ = ["PROJECTS", "end_with_parent", "run_in_process"]

logger = logging.getLogger(__name__)

WORKER = f"{__package__}.worker"
JOB_FILE, LOG_FILE = "job.json", "log.txt"
POLL_SECONDS = 0.1
# Where this distribution lies: the process must run the same code.
PROJECTS = Path(__file__).resolve().parents[2]


def run_in_process(job: Job, folder: Path) -> JobResult:
    """Return what a job gives; if its process dies, that is the result's error.

    Args:
        job: what is to be done.
        folder: receives job.json, log.txt (all that the process prints) and result.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).unlink(missing_ok=True)
    job.write(folder / JOB_FILE)
    search_path = os.pathsep.join(filter(None, [str(PROJECTS), os.environ.get("PYTHONPATH")]))
    with (folder / LOG_FILE).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(folder / JOB_FILE)],
            stdin=subprocess.PIPE,  # It closes when this process ends: the worker waits for that.
            stdout=log,  # A pipe would be kept open by children that outlive the worker.
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": search_path, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    try:
        last_line = _follow(process, job.model.name, folder / LOG_FILE)
    finally:
        _end(process)
    if (folder / RESULT_FILE).is_file():
        return JobResult.read(folder / RESULT_FILE)
    logger.error("all that the process of %s printed is in %s", job.model.name, folder / LOG_FILE)
    return JobResult(error=f"{_describe_end(process.returncode)}, last line {last_line!r}")


def end_with_parent() -> None:
    """Let this process, a worker, and its children end as soon as the comparison is gone, however it went."""
    if stat.S_ISFIFO(os.fstat(0).st_mode) and os.getpgrp() == os.getpid():
        threading.Thread(target=_end_when_pipe_closes, daemon=True).start()


def _end_when_pipe_closes() -> None:
    os.read(0, 1)  # Nothing is ever written; it returns when the other end is closed.
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _follow(process: subprocess.Popen[bytes], name: str, log_file: Path) -> str:
    """Pass the progress of a process on until it ends, and return the last line that it prints."""
    last_line, rest, has_ended = "", b"", False
    with log_file.open("rb") as log:
        while not has_ended:
            has_ended = process.poll() is not None  # Before reading, so that nothing is missed.
            *lines, rest = re.split(rb"[\r\n]", rest + log.read())
            for line in [*lines, rest] if has_ended else lines:
                text = line.decode(errors="replace").strip()
                if text.startswith(PROGRESS):
                    logger.info("%s: %s", name, text.removeprefix(PROGRESS))
                elif text:
                    last_line = text
            if not has_ended:
                time.sleep(POLL_SECONDS)
    return last_line


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"the process ended without a result (exit code {code})"
    reason = " (for want of memory, most likely)" if -code == signal.SIGKILL else ""
    return f"the process was killed by {signal.Signals(-code).name}{reason}"
