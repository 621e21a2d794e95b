"""`panseg benchmark-data`: how fast a training's data comes, and whether the training waits for it."""

from __future__ import annotations

import argparse

from ..arguments import add_opts, positive

HELP = "pictures per second of a training's loader, and the share of time that the training waits for it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the training")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="loader processes; default: 0 1 2"
    )
    parser.add_argument("--batches", type=positive, default=20, metavar="N", help="timed; default: %(default)s")
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="of training, 0 for the loader alone; default: %(default)s"
    )
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print three tables."""
    from tabulate import tabulate

    from ..config import load_config
    from ..data.datasets import register_datasets
    from ..data.throughput import measure_rates, measure_stages, measure_waiting

    cfg = load_config(arguments.config_file, arguments.opts)
    register_datasets(cfg)
    batch = cfg.SOLVER.IMS_PER_BATCH
    print(f"{', '.join(cfg.DATASETS.TRAIN)}, batches of {batch}; cache: {cfg.DATALOADER.CACHE_DIR or 'none'}\n")
    stages = measure_stages(cfg, batch * arguments.batches)
    print(tabulate(stages.items(), ["one process", "ms a picture"], tablefmt="pipe", floatfmt=".1f"))
    rates = measure_rates(cfg, arguments.workers, arguments.batches)
    rows = [(rate.workers, rate.pictures_per_second) for rate in rates]
    print("\n" + tabulate(rows, ["DATALOADER.NUM_WORKERS", "pictures a second"], tablefmt="pipe", floatfmt=".1f"))
    if arguments.steps > 0:
        waiting = measure_waiting(cfg, arguments.steps)
        print(
            f"\ntraining on {cfg.MODEL.DEVICE}, DATALOADER.NUM_WORKERS {cfg.DATALOADER.NUM_WORKERS}: "
            f"{waiting.pictures_per_second:.2f} pictures a second; a step takes {waiting.step_seconds:.3f} s, "
            f"waiting for data is {100 * waiting.share:.1f}% of the time"
        )
    return 0
