"""The commands of docs/page.md run as they stand there: the page answers, and stops when it is told to."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from documents import ROOT, blocks, checkout_environment, commands, run_in_checkout

pytest.importorskip("gradio", reason="the page needs gradio, of the extra `page`")

DOCUMENT = ROOT / "docs/page.md"
LONGEST_WAIT = 600  # Seconds; nothing waits for it where all is well.


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def answer(address: str) -> str:
    # Whatever proxy the environment names is not for this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=60) as reply:
        return reply.read().decode("utf-8")


def test_document_names_the_command():
    assert sum(command.startswith("panseg page") for command in commands(DOCUMENT)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_page_starts_answers_and_stops(stop, checkout, demo_weights, tmp_path):
    (command,) = (command for command in commands(DOCUMENT) if command.startswith("panseg page"))
    port = free_port()
    environment = {**checkout_environment(checkout), "TMPDIR": str(tmp_path)}
    with (tmp_path / "said.txt").open("w+") as said:
        server = subprocess.Popen(
            [*shlex.split(command), "--port", str(port)], cwd=checkout, env=environment, stdout=said, stderr=said
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            end = time.monotonic() + LONGEST_WAIT
            while f"page: {address}" not in (words := (tmp_path / "said.txt").read_text()):
                assert server.poll() is None, words
                assert time.monotonic() < end, words
                time.sleep(0.5)
            assert "panoptic_segformer_lite0" in answer(address)
            assert list(tmp_path.glob("panseg-page-*/examples/*.png"))
            server.send_signal(stop)
            assert server.wait(LONGEST_WAIT) == 0
        finally:
            server.kill()
    assert "Traceback" not in (tmp_path / "said.txt").read_text()
    assert [path.name for path in tmp_path.iterdir() if "panseg" in path.name or "gradio" in path.name] == []
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(("127.0.0.1", port))


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks(DOCUMENT, "python"))
def test_python_code_runs_as_pasted(code, checkout, demo_weights):
    run_in_checkout([sys.executable, "-c", code], checkout)
