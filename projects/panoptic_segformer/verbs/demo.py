"""`panseg demo`: the panoptic results of pictures, videos and cameras."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import add_device, add_opts, positive

if TYPE_CHECKING:
    from ..inference.prediction import Drawing
    from ..inference.predictor import PanopticPredictor
    from ..inference.sources import Inputs

logger = logging.getLogger(__name__)

HELP = "draw the panoptic result of pictures, videos or a camera"
# As inference/result.py has them, which help must not import.
STYLES = ("overlay", "contours", "boxes", "side-by-side", "queries")
THRESHOLDS = {
    "score": "least confidence of a segment",
    "mask": "value of a mask above which a pixel belongs to it",
    "overlap": "greatest share of a segment that better ones may have taken, 0 to 1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    parser.add_argument("--weights", required=True, help="checkpoint: a file or an address")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="FILE|FOLDER|GLOB|CAMERA",
        help="pictures, videos, folders, glob patterns, numbers of cameras",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for all that is written")
    parser.add_argument(
        "--draw",
        nargs="*",
        choices=STYLES,
        default=["overlay"],
        help="what is drawn; several styles get a folder each, none draws nothing; default: overlay",
    )
    parser.add_argument("--no-labels", action="store_true", help="no names on the segments")
    parser.add_argument("--no-legend", action="store_true", help="no legend below pictures; they keep their size")
    parser.add_argument(
        "--save",
        nargs="+",
        choices=("panoptic", "masks"),
        default=[],
        help="predictions of pictures as files: in COCO-panoptic form, a png per segment",
    )
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="pictures that run together; default: 1")
    parser.add_argument("--frames", type=positive, metavar="N", help="stop a video or camera after N frames")
    for name, meaning in THRESHOLDS.items():
        parser.add_argument(
            f"--{name}-threshold", type=float, metavar="VALUE", help=f"{meaning}; default: the config's"
        )
    add_device(parser)
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write what is asked for of the inputs; return 1 if some of them were left out."""
    from detectron2.utils.logger import setup_logger

    from ..inference.sources import sort_inputs

    setup_logger(name="panoptic_segformer")
    inputs = sort_inputs(arguments.input)
    _check_inputs(arguments, inputs)
    predictor = _load(arguments)
    left_out: list[object] = _predict_pictures(arguments, predictor, inputs.pictures) if inputs.pictures else []
    for source in (*inputs.videos, *inputs.cameras):
        if not _predict_video(arguments, predictor, source, inputs.videos):
            left_out.append(source if isinstance(source, Path) else f"camera {source}")
    number = len(inputs.pictures) + len(inputs.videos) + len(inputs.cameras)
    print(f"wrote {number - len(left_out)} of {number} results to {arguments.output}")
    for source in left_out:
        print(f"panseg demo: {source} was left out", file=sys.stderr)
    return 1 if left_out else 0


def _check_inputs(arguments: argparse.Namespace, inputs: Inputs) -> None:
    """Raise ValueError, FileNotFoundError or ImportError for what can't be done, before a model is loaded."""
    from ..inference.sources import output_files
    from ..inference.video import check_cameras, require_video

    if not (arguments.draw or arguments.save):
        raise ValueError("nothing is drawn and nothing saved: give a style to --draw, or --save")
    for drawing in _drawings(arguments, legend=False):
        for files in (inputs.pictures, inputs.videos):
            output_files(files, drawing.folder)
    if not (inputs.videos or inputs.cameras):
        return
    require_video()
    check_cameras(inputs.cameras)
    if arguments.save:
        raise ValueError("--save is for pictures, but among the inputs is a video or camera: leave one of them out")
    if "queries" in arguments.draw:
        raise ValueError("--draw queries is for pictures: every frame of a video would have another size")


def _load(arguments: argparse.Namespace) -> PanopticPredictor:
    """Return the predictor that the arguments ask for."""
    from .. import PanopticPredictor
    from ..inference.loading import configured
    from ..inference.thresholds import Thresholds, with_thresholds

    thresholds = Thresholds(*(getattr(arguments, f"{name}_threshold") for name in THRESHOLDS))
    return PanopticPredictor(
        with_thresholds(configured(arguments.config_file, arguments.opts), thresholds),
        arguments.weights,
        device=arguments.device,
        batch_size=arguments.batch,
        with_queries="queries" in arguments.draw,
    )


def _drawings(arguments: argparse.Namespace, legend: bool) -> list[Drawing]:
    """Return the drawings that are asked for; several have a folder each."""
    from ..inference.prediction import Drawing

    styles, output = dict.fromkeys(arguments.draw), arguments.output
    return [
        Drawing(style, output / style if len(styles) > 1 else output, not arguments.no_labels, legend)
        for style in styles
    ]


def _predict_pictures(arguments: argparse.Namespace, predictor: PanopticPredictor, files: list[Path]) -> list[object]:
    """Return the pictures that were left out."""
    from ..inference.prediction import DrawingSaver, Saver, predict_files
    from ..inference.saving import save_masks, save_panoptic

    savers: list[Saver] = [
        DrawingSaver(drawing, files) for drawing in _drawings(arguments, legend=not arguments.no_legend)
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if "panoptic" in arguments.save:
            folder = arguments.output / "panoptic"
            savers.append(stack.enter_context(save_panoptic(folder, predictor.datasets, predictor.categories)))
        if "masks" in arguments.save:
            savers.append(stack.enter_context(save_masks(arguments.output / "masks")))
        return [*predict_files(predictor, files, savers, arguments.batch)]


def _predict_video(
    arguments: argparse.Namespace, predictor: PanopticPredictor, source: Path | int, videos: list[Path]
) -> bool:
    """Return whether a video or camera could be read to its end."""
    from ..inference.prediction import predict_video
    from ..inference.sources import output_files

    outputs = []
    for drawing in _drawings(arguments, legend=False):
        drawing.folder.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            path = output_files(videos, drawing.folder)[videos.index(source)]
        else:
            path = drawing.folder / f"camera_{source}.mp4"
        outputs.append((drawing, path))
    try:
        predict_video(predictor, source, outputs, arguments.batch, arguments.frames)
    except (FileNotFoundError, ValueError) as error:
        logger.error("%s is left out: %s", source, error)
        return False
    return True
