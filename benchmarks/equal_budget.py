"""Train several models on equal terms and report PQ against iterations and against training time.

`python benchmarks/equal_budget.py --configs YAML ... [--names NAME ...] [--iterations N] [--batch N]
[--size SHORT LONG] [--eval-period N] [--threads N] [--device cpu|cuda] [--output FOLDER] [--only NAME ...] [--again]`

The first config sets the terms: datasets, backbone and its weights, and what the arguments leave open. Learning rates,
losses and augmentation stay each model's own; projects/panoptic_segformer/comparison/budget.py says what exactly is
equal. The folder receives a Detectron2 training per model (model_final.pth, metrics.json, config.yaml), and
equal_budget.json and equal_budget.png. Run again, it trains only what is not complete.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from panoptic_segformer.comparison.budget import Budget
from panoptic_segformer.comparison.curves import plot_curves
from panoptic_segformer.comparison.equal_training import Training, train_equally

SECONDS_PER_MINUTE = 60
MEGA = 1e6
QUALITIES = ("PQ", "PQ_th", "PQ_st")


def main(words: Sequence[str] | None = None) -> int:
    """Train, write the picture and print the table; return 1 if a training failed and 2 if the terms can't be kept."""
    arguments = _parse_arguments(words)
    output_dir = Path(arguments.output)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        budget = Budget(
            iterations=arguments.iterations,
            batch=arguments.batch,
            size=tuple(arguments.size) if arguments.size else None,
            eval_period=arguments.eval_period,
            seed=arguments.seed,
            threads=arguments.threads,
            device=arguments.device,
            opts=tuple(arguments.opts),
        )
        config_files = dict(zip(arguments.names, map(Path, arguments.configs), strict=True))
        trainings = train_equally(config_files, budget, output_dir, only=arguments.only, again=arguments.again)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    plot_curves(trainings, output_dir / "equal_budget.png")
    print(_table(trainings))
    return int(any(training.error for training in trainings))


def _parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", required=True, metavar="YAML", help="the first one sets the terms")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the models; default: the configs' file names")
    parser.add_argument("--iterations", type=int, metavar="N")
    parser.add_argument("--batch", type=int, metavar="N", help="pictures in an iteration")
    parser.add_argument("--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="sides of the input, at most LONG")
    parser.add_argument("--eval-period", type=int, metavar="N", help="iterations; default: a tenth of all")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of every config")
    parser.add_argument("--output", default="output/equal_budget", metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="train these now, report all")
    parser.add_argument("--again", action="store_true", help="train what is complete again")
    arguments = parser.parse_args(words)
    arguments.names = arguments.names or [Path(config).stem for config in arguments.configs]
    if len(arguments.names) != len(arguments.configs) or len(set(arguments.names)) != len(arguments.names):
        parser.error("--names must give each config a name of its own")
    return arguments


def _table(trainings: Sequence[Training]) -> str:
    """Return the last point of each curve."""
    header = ["model", "parameters, M", "iterations", *QUALITIES, "training, min", "of processor time", ""]
    rows = []
    for training in trainings:
        row = [training.name, f"{training.setup.parameters / MEGA:.1f}"]
        if training.curve:
            last = training.curve[-1]
            row += [last.iterations, *(f"{last.qualities.get(key, math.nan):.1f}" for key in QUALITIES)]
            row += [f"{seconds / SECONDS_PER_MINUTE:.1f}" for seconds in (last.seconds, last.cpu_seconds)]
        else:
            row += ["-"] * 6
        rows.append([*row, training.error])
    alignment = ["left", *["right"] * 7, "left"]
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=alignment)


if __name__ == "__main__":
    sys.exit(main())
