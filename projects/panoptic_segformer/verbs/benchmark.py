"""`panseg benchmark`: times and memory of a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import add_device, add_opts, add_size, device_overrides, positive

HELP = "times by stage, pictures per second and peak memory of a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    parser.add_argument("--weights", default="", help="checkpoint: a file or an address; default: random weights")
    add_size(parser, (800, 1216))
    parser.add_argument("--input", default="", metavar="PICTURE", help="default: a synthetic scene of 480x640")
    parser.add_argument(
        "--batch", type=positive, nargs="+", default=[1], metavar="N", help="pictures at a time; default: 1"
    )
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="that count; default: %(default)s")
    parser.add_argument("--warm-up", type=positive, default=2, metavar="N", help="before; default: %(default)s")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the CPU; default: torch's choice")
    add_device(parser)
    parser.add_argument("--amp", action="store_true", help="torch.autocast: bfloat16 on a CPU, float16 on a GPU")
    parser.add_argument("--channels-last", action="store_true", help="memory format of the backbone")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the network's parts; takes minutes")
    parser.add_argument("--train", action="store_true", help="training steps on a synthetic scene with its truth")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single number there")
    add_opts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what a model takes, batch by batch."""
    import torch

    from ..profiling.report import benchmark
    from ..profiling.setting import Setting

    setting = Setting(
        config_file=arguments.config_file,
        opts=(*arguments.opts, *device_overrides(arguments.device)),
        weights=arguments.weights,
        size=tuple(arguments.size),
        picture=arguments.input,
        threads=arguments.threads or torch.get_num_threads(),
        amp=arguments.amp,
        channels_last=arguments.channels_last,
        compiled=arguments.compile,
        train=arguments.train,
    )
    for part in benchmark(setting, arguments.batch, arguments.runs, arguments.warm_up, arguments.json):
        print(part, end="\n\n", flush=True)
    return 0
