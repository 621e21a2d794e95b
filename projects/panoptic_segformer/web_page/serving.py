"""Serve the page to this machine until it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..data.synthetic import compose_scene
from ..inference.result import PanopticResult
from ..optional import import_optional

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["HOST", "check_port", "launch_page", "serve_page", "write_examples"]

# No other machine reaches it.
HOST = "127.0.0.1"
LARGEST_UPLOAD = "200mb"
NUM_EXAMPLES = 6
EXAMPLE_SIZE = (192, 256)
EXAMPLE_SEED = 20


def check_port(port: int) -> None:
    """Raise OSError if the page can't be served at a port: a model need not be loaded to find that out."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # A port that was left just now is free.
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise OSError(
                f"port {port} of {HOST} can't be used ({error.strerror}): another program, perhaps another page, has "
                "it; choose another one by --port"
            ) from error


def serve_page(
    load: Callable[[], Callable[[np.ndarray], PanopticResult]],
    *,
    title: str,
    port: int,
    announce: Callable[[str], None],
    open_browser: bool = False,
) -> None:
    """Serve the page of a predictor until Ctrl-C or SIGTERM.

    Args:
        load: gives the predictor that `build_page` takes; it is called when nothing else is in the way.
        title: heading of the page.
        port: where it listens.
        announce: is called with the page's address once it answers.
        open_browser: show it in the user's browser.
    Raises: ImportError: if gradio is missing. OSError: if the port is taken.
    """
    check_port(port)
    # However it is stopped, the pictures are removed; shells have commands in the background ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="panseg-page-", ignore_cleanup_errors=True) as folder:
        # Of everything that is uploaded or shown; before the import, which looks for it too.
        os.environ["GRADIO_TEMP_DIR"] = folder
        import_optional("gradio", "page")
        from .building import build_page

        page = build_page(load(), title=title, examples=write_examples(Path(folder) / "examples"))
        try:
            address = launch_page(page, port)
            announce(address)
            if open_browser:
                webbrowser.open(address)
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)


def launch_page(page: gr.Blocks, port: int) -> str:
    """Serve a page in the background and return its address: to this machine alone, whatever gradio's variables say."""
    # gradio asks the server whether it is up, through whatever proxy the environment names.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), HOST)))
    _, address, _ = page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
    )
    return address


def write_examples(folder: Path) -> list[Path]:
    """Write pictures of synthetic scenes to a new folder and return their files."""
    folder.mkdir(parents=True)
    files = [folder / f"scene_{number}.png" for number in range(1, NUM_EXAMPLES + 1)]
    for number, file in enumerate(files):
        scene = compose_scene(np.random.default_rng([EXAMPLE_SEED, number]), EXAMPLE_SIZE)
        Image.fromarray(scene.image).save(file)
    return files
