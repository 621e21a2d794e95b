"""`panseg export`: the network as one file for ONNX Runtime or torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import add_opts, pixels

HELP = "write the network as ONNX or torch.export, checked against the model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    parser.add_argument("--weights", required=True, help="checkpoint: a file or an address")
    parser.add_argument("--format", required=True, choices=("onnx", "torch"), help="of the file")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="model.onnx or model.pt2")
    parser.add_argument(
        "--size",
        type=pixels,
        nargs=2,
        action="append",
        default=[],
        metavar=("HEIGHT", "WIDTH"),
        help="picture that the file is checked on, may be repeated; default: three of the config's scale",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        metavar="SHARE",
        help="largest error, as a share of an output's largest value; default: %(default)s",
    )
    parser.add_argument(
        "--with-operator",
        action="store_true",
        help="format torch: keep the compiled operator, which is faster and needs this package to be loaded",
    )
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the file and print how far it is from the model."""
    from detectron2.utils.logger import setup_logger

    from .. import load_config
    from ..export.checking import parity_table
    from ..export.exporting import ExportOptions, export_model

    setup_logger(name="panoptic_segformer")
    sizes = [tuple(size) for size in arguments.size]
    options = ExportOptions(arguments.format, sizes, arguments.tolerance, arguments.with_operator)
    cfg = load_config(arguments.config_file, arguments.opts)
    checks = export_model(cfg, arguments.weights, arguments.output, options)
    print("largest errors against the model, beside the largest values of the outputs:\n")
    print(parity_table(checks))
    print(f"\nwrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)")
    return 0
