"""`panseg configs`: all configs in a table."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "list all configs with backbone, schedule, classes and parameters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--folder", type=Path, default=Path("configs"), metavar="DIR", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Print one line per config; parameters are counted without memory for them."""
    from tabulate import tabulate

    from ..analysis import summarize_configs

    summaries = summarize_configs(arguments.folder)
    rows = []
    for config in summaries:
        things, stuff = config.classes or ("-", "-")
        parameters = "-" if config.parameters is None else f"{config.parameters.total / 1e6:.2f}"
        schedule = f"{config.iterations:,} x {config.batch}"
        rows.append([config.name, config.backbone, schedule, config.form, things, stuff, parameters])
    headers = ["config", "backbone", "iterations x pictures", "form", "things", "stuff", "parameters (M)"]
    alignment = ["left", "left", "right", "left", "right", "right", "right"]
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=alignment))
    if any(config.classes is None for config in summaries):
        print("\n-: classes come from the dataset's json, which is not there")
    return 0
