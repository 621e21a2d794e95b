"""`panseg synthesize`: the project's own scenes, as many as are wanted."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make a dataset of synthetic scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the dataset")
    parser.add_argument("--num", required=True, type=int, metavar="N", help="number of scenes")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")


def run(arguments: argparse.Namespace) -> int:
    """Write a dataset of synthetic scenes in COCO-panoptic form."""
    from ..data.synthetic import write_scenes

    write_scenes(arguments.output, arguments.num, arguments.seed)
    print(f"wrote {arguments.num} scenes to {arguments.output}")
    return 0
