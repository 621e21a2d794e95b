"""`panseg reproduce`: a training step again whose numbers were not finite."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "compute a step again whose losses were not finite, from the file that the training wrote"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="not_finite_*.pth of an OUTPUT_DIR")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Print the losses, the gradient by module and where the first number that is not finite came up."""
    from tabulate import tabulate

    from ..checkpoint.loading import read_checkpoint
    from ..training.reproduction import reproduce

    content = read_checkpoint(arguments.file)
    again = reproduce(content, arguments.device)
    rows = [(name, content["losses"].get(name, ""), value) for name, value in again.losses.items()]
    print(tabulate(rows, ["loss", "in training", "again, full precision"], tablefmt="pipe"))
    print("\n" + tabulate(again.norms.items(), ["module", "gradient norm"], tablefmt="pipe"))
    if again.error:
        print(f"\n{again.error}")
    if again.first_module:
        print(f"\nthe first output that is not finite is that of {again.first_module}")
    if again.is_finite:
        print(
            "\nall numbers are finite in full precision: half precision was the cause, or the whole batch's normalisers"
        )
    return 0
