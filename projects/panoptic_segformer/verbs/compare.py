"""`panseg compare`: several models on the same pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..arguments import add_device, positive

HELP = "several models on the same pictures: table, json and page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", help="models and pictures, see docs/compare.md")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="of predictions and costs; default: cache in --output"
    )
    add_device(parser)
    parser.add_argument("--no-cost", action="store_true", help="measure no FLOPs, times and memory")
    parser.add_argument("--runs", type=positive, default=3, metavar="N", help="of timed pictures; default: %(default)s")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="models; default: all")


def run(arguments: argparse.Namespace) -> int:
    """Run a comparison and print its table; return 1 if some of the models failed or pictures were left out."""
    import logging

    from detectron2.utils.logger import setup_logger

    from ..comparison.run import compare
    from ..comparison.spec import read_spec
    from ..comparison.table import comparison_tables

    setup_logger(name="panoptic_segformer")
    # The table has what the evaluators would tell of each model.
    logging.getLogger("panoptic_segformer.evaluation").setLevel(logging.WARNING)
    comparison = compare(
        read_spec(arguments.spec, arguments.only),
        arguments.output,
        cache=arguments.cache,
        device=arguments.device,
        costs=not arguments.no_cost,
        runs=arguments.runs,
    )
    print(comparison_tables(comparison))
    failed = [model for model in comparison.models if model.error]
    for model in failed:
        print(f"panseg compare: {model.name} failed: {model.error}", file=sys.stderr)
    if left_out := comparison.facts.get("left out"):
        print(f"panseg compare: pictures were left out: {left_out}", file=sys.stderr)
    if len(failed) < len(comparison.models):
        print(f"\npage: {arguments.output / 'index.html'}")
    return 1 if failed or left_out else 0
