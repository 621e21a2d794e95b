"""`panseg robustness`: panoptic quality on corrupted pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import add_device, add_opts, device_overrides, positive

HELP = "panoptic quality on pictures with noise, blur, weather and digital faults"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    parser.add_argument("--weights", required=True, help="checkpoint: a file or an address")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--dataset", default="", metavar="NAME", help="default: the config's first test set")
    parser.add_argument(
        "--corruptions",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="kinds, or groups of them: blur, noise, digital, weather, all; default: all",
    )
    parser.add_argument(
        "--severity", type=positive, nargs="+", default=[3], metavar="N", help="from 1 to 5; default: 3"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="pictures, the first ones; default: all")
    parser.add_argument(
        "--shown", type=positive, default=1, metavar="N", help="which one of them is drawn; default: %(default)s"
    )
    add_device(parser)
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure clean and corrupted pictures, print the table and write it with a json and a picture."""
    import logging

    from detectron2.utils.logger import setup_logger

    from .. import load_config
    from ..robustness.corruptions import choose_corruptions
    from ..robustness.measuring import Measurement, measure_robustness
    from ..robustness.report import PICTURE_FILE, draw_corruptions, robustness_table, write_results

    setup_logger(name="panoptic_segformer")
    # The table has what the evaluator would tell of each corruption.
    logging.getLogger("panoptic_segformer.evaluation").setLevel(logging.WARNING)
    corruptions = choose_corruptions(arguments.corruptions, arguments.severity)
    cfg = load_config(
        arguments.config_file,
        [*arguments.opts, "MODEL.WEIGHTS", arguments.weights, *device_overrides(arguments.device)],
    )
    measurement = Measurement(cfg, arguments.dataset, arguments.limit)
    if arguments.shown > len(measurement.records):
        raise ValueError(f"--shown is {arguments.shown}, but there are {len(measurement.records)} pictures")
    robustness = measure_robustness(measurement, corruptions, arguments.output)
    write_results(robustness, arguments.output)
    worst = max(arguments.severity)
    shown = [corruption for corruption in corruptions if corruption.severity == worst]
    record = measurement.records[arguments.shown - 1]
    draw_corruptions(measurement, shown, record, arguments.output / PICTURE_FILE)
    print(robustness_table(robustness))
    print(f"\nresults: {arguments.output}")
    return 0
