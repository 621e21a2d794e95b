"""`panseg analyze`: parameters and FLOPs of a model."""

from __future__ import annotations

import argparse

from ..arguments import add_opts, add_size

HELP = "parameters and FLOPs of a model, part by part"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    add_size(parser, (800, 1200))
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print parameters and FLOPs by part, FLOPs by operator, and the operators without a count."""
    from .. import load_config
    from ..analysis import build_for_sizing
    from ..analysis.report import cost_report

    model = build_for_sizing(load_config(arguments.config_file, arguments.opts), "cpu")
    height, width = arguments.size
    print(f"{arguments.config_file}, one picture of {height}x{width} (height x width)\n")
    print(cost_report(model, (height, width)))
    return 0
