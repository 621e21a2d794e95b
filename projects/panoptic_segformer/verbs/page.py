"""`panseg page`: a web page to try a model on pictures."""

from __future__ import annotations

import argparse

from ..arguments import add_device, add_opts

HELP = "a web page on this machine: drop a picture, see its segments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    parser.add_argument("--weights", required=True, help="checkpoint: a file or an address")
    parser.add_argument("--port", type=_port, default=7860, metavar="N", help="of 127.0.0.1; default: %(default)s")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    add_device(parser)
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until it is stopped by Ctrl-C."""
    from pathlib import Path

    from detectron2.utils.logger import setup_logger

    from .. import PanopticPredictor
    from ..web_page.serving import serve_page

    setup_logger(name="panoptic_segformer")
    serve_page(
        lambda: PanopticPredictor(
            arguments.config_file, arguments.weights, device=arguments.device, opts=arguments.opts
        ),
        title=Path(arguments.config_file).stem,
        port=arguments.port,
        announce=lambda address: print(f"page: {address} (Ctrl-C stops it)", flush=True),
        open_browser=arguments.open,
    )
    return 0


def _port(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 65535:
        raise argparse.ArgumentTypeError(f"invalid port {word!r}, give a whole number from 1 to 65535")
    return int(word)
