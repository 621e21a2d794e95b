"""`panseg demo`: the panoptic results of pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..arguments import add_device, add_opts, device_overrides

HELP = "draw the panoptic result of pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    parser.add_argument("--weights", required=True, help="checkpoint: a file or an address")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="FILE|FOLDER|GLOB",
        help="pictures, folders, glob patterns",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the overlays")
    add_device(parser)
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write overlays of the inputs' panoptic results; return 1 if some of the pictures were left out."""
    from detectron2.utils.logger import setup_logger

    from .. import load_config
    from ..inference.loading import load_predictor, panoptic_only
    from ..inference.prediction import input_files, predict_files

    setup_logger(name="panoptic_segformer")
    files = input_files(arguments.input)
    cfg = load_config(
        arguments.config_file,
        [*arguments.opts, "MODEL.WEIGHTS", arguments.weights, *device_overrides(arguments.device)],
    )
    predictor = load_predictor(panoptic_only(cfg))
    unreadable = predict_files(predictor, files, arguments.output, predictor.model.categories)
    print(f"wrote {len(files) - len(unreadable)} of {len(files)} overlays to {arguments.output}")
    for file in unreadable:
        print(f"panseg demo: {file} was left out", file=sys.stderr)
    return 1 if unreadable else 0
