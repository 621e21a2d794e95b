"""`panseg predict-many`: the panoptic results of any number of pictures, in shards that are never done twice."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import add_device, add_opts, device_overrides, positive

if TYPE_CHECKING:
    from ..shards.predicting import Job

HELP = "predict any number of pictures in shards, by several processes or machines; interruptions cost one shard each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    parser.add_argument("--weights", required=True, help="checkpoint: a file or an address")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="FILE|FOLDER|GLOB|LIST.txt",
        help="pictures, folders, glob patterns, text files with a path a line",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="new folder, or that of a run to go on with"
    )
    parser.add_argument(
        "--workers",
        type=_count,
        default=0,
        metavar="N",
        help="models at a time, each a process of Ray with a core or GPU of its own; default: 0, one model, no Ray",
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="Ray cluster to run on, auto = this machine's; default: this machine alone"
    )
    parser.add_argument(
        "--shard-size", type=positive, default=1000, metavar="N", help="pictures of a shard; default: 1000"
    )
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="pictures that run together; default: 1")
    add_device(parser)
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict what is not predicted; return 1 if pictures or shards are without a result in the end."""
    from detectron2.utils.logger import setup_logger

    from ..inference.loading import check_device, check_weights, configured
    from ..shards.joining import join_shards
    from ..shards.places import Places
    from ..shards.predicting import Job
    from ..shards.running import plan_run, run_shards, sole_run

    setup_logger(name="panoptic_segformer")
    if arguments.address and not arguments.workers:
        raise ValueError("--address is that of a Ray cluster, but --workers is 0: give their number")
    cfg = configured(arguments.config_file, [*arguments.opts, *device_overrides(arguments.device)])
    check_weights(arguments.weights)
    if not arguments.address:
        check_device(cfg)
    places = Places(arguments.output.resolve())
    weights = arguments.weights if "://" in arguments.weights else os.path.abspath(arguments.weights)
    overrides = (*arguments.opts, "MODEL.DEVICE", cfg.MODEL.DEVICE)
    job = Job(places, os.path.abspath(arguments.config_file), weights, overrides)
    with sole_run(places):
        manifest = plan_run(places, arguments.input, cfg, weights, (arguments.shard_size, arguments.batch))
        missing = run_shards(places, manifest, lambda numbers: _finished(arguments, job, numbers, cfg.MODEL.DEVICE))
        if missing:
            _complain(
                f"{len(missing)} of {manifest.shards} shards are missing, first {places.shard(missing[0]).name}: "
                "no worker survived them; the same command tries them again"
            )
            return 1
        summary = join_shards(places, manifest.shards)
    print(f"predicted {summary.pictures} of {manifest.pictures} pictures in {manifest.shards} shards: {places.joined}")
    for failure in summary.first_failures:
        _complain(f"{failure.file_name} has no result: {failure.reason}")
    if more := summary.failures - len(summary.first_failures):
        _complain(f"{more} more pictures have no result, see 'failures' in {places.joined}")
    return 1 if summary.failures else 0


def _finished(arguments: argparse.Namespace, job: Job, numbers: Sequence[int], device: str) -> Iterable[int]:
    """Yield the numbers of shards as they are finished."""
    if arguments.workers:
        from ..shards.ray_workers import predict_with_ray

        yield from predict_with_ray(job, numbers, arguments.workers, device.startswith("cuda"), arguments.address)
        return
    from ..shards.predicting import ShardPredictor

    predict = ShardPredictor(job)
    for number in numbers:
        predict(number)
        yield number


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"invalid number {word!r}, give a whole number, 0 for none")
    return int(word)


def _complain(text: str) -> None:
    print(f"panseg predict-many: {text}", file=sys.stderr)
