"""Every command of docs/reliability.md runs as it stands there; of the chaos, a little of each kind."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from documents import ROOT, broken_links, checkout_environment, commands, run_in_checkout
from tiny import tiny_overrides

DOCUMENT = ROOT / "docs/reliability.md"
# `make chaos` takes minutes: what it calls, with fewer trials and without what the tests of the package try as well.
FEW = ["--kills", "2", "--signals", "1", "--only", "kill", "stop", "final", "writable", "malice"]
CHAOS = [sys.executable, str(ROOT / "benchmarks/chaos"), *FEW]


@pytest.mark.slow
def test_commands_run_as_pasted(checkout, tmp_path) -> None:
    others = {"python": [], "panseg": ["--batches", "1", "--opts"]}
    found = [shlex.split(command) for command in commands(DOCUMENT)]
    assert [words[0] for words in found] == ["make", "python", "panseg"]
    for words in found[1:]:
        run_in_checkout([*words, *others[words[0]], *tiny_overrides(tmp_path)], checkout)


@pytest.mark.slow
def test_chaos_loses_nothing(checkout) -> None:
    done = subprocess.run(CHAOS, cwd=checkout, env=checkout_environment(checkout), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    table = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(table) == 5
    assert all(int(tried) == int(did) > 0 for _, tried, _, did in table)


def test_links_lead_somewhere() -> None:
    assert not broken_links(DOCUMENT)
