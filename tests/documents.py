"""Commands and code of markdown files, for tests that run them as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def blocks(document: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(document: Path) -> list[str]:
    """Return the commands of the bash blocks, without comments, each on one line."""
    lines = [
        line.split("  #")[0].strip()
        for block in blocks(document, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def broken_links(document: Path) -> list[str]:
    """Return the relative links of a markdown file that lead nowhere."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8"))
    return [target for target in targets if not (document.parent / target).exists()]


def checkout_environment(checkout: Path) -> dict[str, str]:
    """Return the environment of commands that run in the folder that looks like the checkout."""
    scripts = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "DETECTRON2_DATASETS": "datasets",
        "FVCORE_CACHE": str(checkout / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def run_in_checkout(words: Sequence[str], checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder that looks like the checkout, and check that it succeeds."""
    environment = checkout_environment(checkout)
    done = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done
