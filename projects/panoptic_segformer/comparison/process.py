"""Run one model in a process of its own: whatever happens there, the comparison goes on."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

from .job import PROGRESS, RESULT_FILE, Job, JobResult

__all__ = ["run_in_process"]

logger = logging.getLogger(__name__)

WORKER = f"{__package__}.worker"
JOB_FILE, LOG_FILE = "job.json", "log.txt"
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
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER, str(folder / JOB_FILE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONPATH": search_path},
    )
    last_line = _follow(process, job.model.name, folder / LOG_FILE)
    code = process.wait()
    if code >= 0 and (folder / RESULT_FILE).is_file():
        return JobResult.read(folder / RESULT_FILE)
    logger.error("all that the process of %s printed is in %s", job.model.name, folder / LOG_FILE)
    return JobResult(error=f"{_describe_end(code)}, last line {last_line!r}")


def _follow(process: subprocess.Popen[str], name: str, log_file: Path) -> str:
    """Write what a process prints to a file, pass its progress on, and return its last line."""
    tail: deque[str] = deque(maxlen=1)
    with log_file.open("w", encoding="utf-8") as log, process:
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            if line.startswith(PROGRESS):
                logger.info("%s: %s", name, line.removeprefix(PROGRESS).strip())
            elif re.search(r"\S", line):
                tail.append(line.strip())
    return "".join(tail)


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"the process ended without a result (exit code {code})"
    reason = " (for want of memory, most likely)" if -code == signal.SIGKILL else ""
    return f"the process was killed by {signal.Signals(-code).name}{reason}"
