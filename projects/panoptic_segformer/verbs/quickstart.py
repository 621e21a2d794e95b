"""`panseg quickstart`: a small model on synthetic scenes, from nothing to a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train, evaluate and draw on synthetic scenes, in minutes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--config-file",
        type=Path,
        default=Path("configs/synthetic/panoptic_segformer_lite0.yaml"),
        metavar="YAML",
        help="default: %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train a small model on synthetic scenes and print where its results are."""
    from ..quickstart import run_quickstart

    metrics = run_quickstart(arguments.config_file, arguments.output)
    print("\n          PQ     SQ     RQ")
    for title, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st")):
        numbers = (metrics[f"panoptic_seg/{name}{suffix}"] for name in ("PQ", "SQ", "RQ"))
        print(f"{title:<7}", *(f"{number:6.1f}" for number in numbers))
    print(f"\nmetrics: {arguments.output / 'metrics.json'}\npicture: {arguments.output / 'panoptic.png'}")
    return 0
