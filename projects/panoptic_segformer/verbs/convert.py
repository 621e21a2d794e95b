"""`panseg convert`: datasets of other layouts in COCO-panoptic form."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import positive

HELP = "write other datasets in COCO-panoptic form: instances + semantic png, Cityscapes, ADE20K, labelme"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    layouts = parser.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    for name, root, splits in (
        ("cityscapes", "folder with leftImg8bit and gtFine", "train, val"),
        ("ade20k", "ADEChallengeData2016, with images, annotations and annotations_instance", "training, validation"),
    ):
        layout = layouts.add_parser(name, help=f"{root}, as downloaded")
        layout.add_argument("--root", type=Path, required=True, metavar="DIR", help=root)
        layout.add_argument("--split", required=True, metavar="NAME", help=splits)
        _add_output(layout)
    layout = layouts.add_parser("instances", help="COCO's instances json and semantic png")
    layout.add_argument("--instances", type=Path, required=True, metavar="FILE", help="the json")
    layout.add_argument(
        "--semantic", type=Path, required=True, metavar="DIR", help="semantic png, named as the pictures"
    )
    _add_classes(layout)
    layout.add_argument(
        "--values",
        choices=("id", "index"),
        default="id",
        help="what pixels of the png are: a class's id (default), ...",
    )
    layout.add_argument("--void", type=int, nargs="+", default=[0, 255], metavar="N", help="or void; default: 0 255")
    _add_output(layout)
    layout = layouts.add_parser("labelme", help="a folder of labelme's json")
    layout.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the json")
    layout.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures; default: --root")
    _add_classes(layout)
    _add_output(layout)


def run(arguments: argparse.Namespace) -> int:
    """Write the json and the png of a dataset."""
    from ..data import conversion
    from ..data.conversion.labels import read_classes
    from ..data.parallel import default_workers

    output = conversion.Output(arguments.json, arguments.png, arguments.workers or default_workers())
    if arguments.layout == "cityscapes":
        number = conversion.convert_cityscapes(arguments.root, arguments.split, output)
    elif arguments.layout == "ade20k":
        number = conversion.convert_ade20k(arguments.root, arguments.split, output)
    elif arguments.layout == "labelme":
        classes = read_classes(arguments.classes)
        number = conversion.convert_labelme(arguments.root, arguments.images or arguments.root, classes, output)
    else:
        number = conversion.convert_instances(
            arguments.instances,
            arguments.semantic,
            read_classes(arguments.classes),
            output,
            values=arguments.values,
            void=arguments.void,
        )
    print(f"wrote {number} segments to {arguments.json} and {arguments.png}; check them with panseg validate")
    return 0


def _add_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classes", required=True, metavar="FILE", help="json with 'categories': id, name and isthing of all classes"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, required=True, metavar="NEW.json", help="the panoptic json to write")
    parser.add_argument("--png", type=Path, required=True, metavar="NEW_DIR", help="folder of png to write")
    parser.add_argument("--workers", type=positive, metavar="N", help="processes; default: as many as there are cores")
