"""The command `panseg`: one parser, one function per verb.

Libraries are imported inside the verbs: help is instant, and `panseg info` works where they are missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import pixels, positive

__all__ = ["main"]

USER_ERROR = 2  # As argparse's own exit code.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 all done, 1 done in part, 2 stopped by wrong input."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except ImportError as error:
        reason = f"{error}; `panseg info` tells what is missing and how to get it"
    except (ValueError, OSError) as error:
        reason = str(error)
    print(f"panseg {arguments.verb}: {reason}", file=sys.stderr)
    return USER_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="panseg", description="Panoptic SegFormer for Detectron2.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    info = verbs.add_parser("info", help="versions, operator backend, and what is missing")
    info.set_defaults(run=show_info)

    demo = verbs.add_parser("demo", help="draw the panoptic result of pictures")
    demo.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    demo.add_argument("--weights", required=True, help="checkpoint: a file or an address")
    demo.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="FILE|FOLDER|GLOB",
        help="pictures, folders, glob patterns",
    )
    demo.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the overlays")
    demo.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    demo.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    demo.set_defaults(run=run_demo)

    quickstart = verbs.add_parser("quickstart", help="train, evaluate and draw on synthetic scenes, in minutes")
    quickstart.add_argument(
        "--output", type=Path, default=Path("output/demo"), metavar="DIR", help="default: %(default)s"
    )
    quickstart.add_argument(
        "--config-file",
        type=Path,
        default=Path("configs/synthetic/panoptic_segformer_lite0.yaml"),
        metavar="YAML",
        help="default: %(default)s",
    )
    quickstart.set_defaults(run=quickstart_on_scenes)

    configs = verbs.add_parser("configs", help="list all configs with backbone, schedule, classes and parameters")
    configs.add_argument("--folder", type=Path, default=Path("configs"), metavar="DIR", help="default: %(default)s")
    configs.set_defaults(run=list_configs)

    analyze = verbs.add_parser("analyze", help="parameters and FLOPs of a model, part by part")
    analyze.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    _add_size(analyze, (800, 1200))
    analyze.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    analyze.set_defaults(run=analyze_model)

    _add_benchmark(verbs)
    _add_compare(verbs)

    synthesize = verbs.add_parser("synthesize", help="make a dataset of synthetic scenes")
    synthesize.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the dataset")
    synthesize.add_argument("--num", required=True, type=int, metavar="N", help="number of scenes")
    synthesize.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    synthesize.set_defaults(run=synthesize_scenes)
    return parser


def _add_benchmark(verbs: argparse._SubParsersAction) -> None:
    benchmark = verbs.add_parser("benchmark", help="times by stage, pictures per second and peak memory of a model")
    benchmark.add_argument("--config-file", required=True, metavar="YAML", help="config of the model")
    benchmark.add_argument("--weights", default="", help="checkpoint: a file or an address; default: random weights")
    _add_size(benchmark, (800, 1216))
    benchmark.add_argument("--input", default="", metavar="PICTURE", help="default: a synthetic scene of 480x640")
    benchmark.add_argument(
        "--batch", type=positive, nargs="+", default=[1], metavar="N", help="pictures at a time; default: 1"
    )
    benchmark.add_argument("--runs", type=positive, default=10, metavar="N", help="that count; default: %(default)s")
    benchmark.add_argument("--warm-up", type=positive, default=2, metavar="N", help="before; default: %(default)s")
    benchmark.add_argument("--threads", type=positive, metavar="N", help="of the CPU; default: torch's choice")
    benchmark.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    benchmark.add_argument("--amp", action="store_true", help="torch.autocast: bfloat16 on a CPU, float16 on a GPU")
    benchmark.add_argument("--channels-last", action="store_true", help="memory format of the backbone")
    benchmark.add_argument(
        "--compile", action="store_true", help="torch.compile for the network's parts; takes minutes"
    )
    benchmark.add_argument("--train", action="store_true", help="training steps on a synthetic scene with its truth")
    benchmark.add_argument("--json", type=Path, metavar="FILE", help="also write every single number there")
    benchmark.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    benchmark.set_defaults(run=benchmark_model)


def _add_compare(verbs: argparse._SubParsersAction) -> None:
    compare = verbs.add_parser("compare", help="several models on the same pictures: table, json and page")
    compare.add_argument("spec", type=Path, metavar="SPEC.yaml", help="models and pictures, see docs/compare.md")
    compare.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    compare.add_argument(
        "--cache", type=Path, metavar="DIR", help="of predictions and costs; default: cache in --output"
    )
    compare.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    compare.add_argument("--no-cost", action="store_true", help="measure no FLOPs, times and memory")
    compare.add_argument(
        "--runs", type=positive, default=3, metavar="N", help="of timed pictures; default: %(default)s"
    )
    compare.add_argument("--only", nargs="+", default=[], metavar="NAME", help="models; default: all")
    compare.set_defaults(run=compare_models)


def _add_size(parser: argparse.ArgumentParser, default: tuple[int, int]) -> None:
    parser.add_argument(
        "--size",
        type=pixels,
        nargs=2,
        default=default,
        metavar=("HEIGHT", "WIDTH"),
        help="picture as the network sees it, pixels; default: {} {}".format(*default),
    )


def show_info(arguments: argparse.Namespace) -> int:
    """Print versions, devices and the operator's backend, then how to mend what is not in order."""
    del arguments  # The verb has none.
    from .environment import collect_facts

    facts = collect_facts()
    width = max(len(fact.name) for fact in facts)
    for fact in facts:
        print(f"{fact.name:<{width}}  {fact.value}")
    remedies = [fact for fact in facts if fact.remedy]
    print("\nto be mended:" if remedies else "\nnothing is missing")
    for fact in remedies:
        print(f"{fact.name:<{width}}  {fact.remedy}")
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    """Write overlays of the inputs' panoptic results; return 1 if some of the pictures were left out."""
    from detectron2.utils.logger import setup_logger

    from . import load_config
    from .inference.prediction import input_files, load_predictor, predict_files, without_instances

    setup_logger(name=__package__)
    files = input_files(arguments.input)
    device = [] if arguments.device == "auto" else ["MODEL.DEVICE", arguments.device]
    cfg = load_config(arguments.config_file, [*arguments.opts, "MODEL.WEIGHTS", arguments.weights, *device])
    predictor = load_predictor(without_instances(cfg))
    unreadable = predict_files(predictor, files, arguments.output, predictor.model.categories)
    print(f"wrote {len(files) - len(unreadable)} of {len(files)} overlays to {arguments.output}")
    for file in unreadable:
        print(f"panseg demo: {file} was left out", file=sys.stderr)
    return 1 if unreadable else 0


def list_configs(arguments: argparse.Namespace) -> int:
    """Print one line per config; parameters are counted without memory for them."""
    from tabulate import tabulate

    from .analysis import summarize_configs

    summaries = summarize_configs(arguments.folder)
    rows = []
    for config in summaries:
        things, stuff = config.classes or ("-", "-")
        parameters = "-" if config.parameters is None else f"{config.parameters.total / 1e6:.2f}"
        schedule = f"{config.iterations:,} x {config.batch}"
        rows.append([config.name, config.backbone, schedule, config.form, things, stuff, parameters])
    headers = ["config", "backbone", "iterations x pictures", "form", "things", "stuff", "parameters (M)"]
    alignment = ["left", "left", "right", "left", "right", "right", "right"]
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=alignment))
    if any(config.classes is None for config in summaries):
        print("\n-: classes come from the dataset's json, which is not there")
    return 0


def analyze_model(arguments: argparse.Namespace) -> int:
    """Print parameters and FLOPs by part, FLOPs by operator, and the operators without a count."""
    from . import load_config
    from .analysis import build_for_sizing
    from .analysis.report import cost_report

    model = build_for_sizing(load_config(arguments.config_file, arguments.opts), "cpu")
    height, width = arguments.size
    print(f"{arguments.config_file}, one picture of {height}x{width} (height x width)\n")
    print(cost_report(model, (height, width)))
    return 0


def benchmark_model(arguments: argparse.Namespace) -> int:
    """Print what a model takes, batch by batch."""
    import torch

    from .profiling.report import benchmark
    from .profiling.setting import Setting

    device = [] if arguments.device == "auto" else ["MODEL.DEVICE", arguments.device]
    setting = Setting(
        config_file=arguments.config_file,
        opts=(*arguments.opts, *device),
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


def compare_models(arguments: argparse.Namespace) -> int:
    """Run a comparison and print its table; return 1 if some of the models failed or pictures were left out."""
    import logging

    from detectron2.utils.logger import setup_logger

    from .comparison.run import compare
    from .comparison.spec import read_spec
    from .comparison.table import comparison_tables

    setup_logger(name=__package__)
    # The table has what the evaluators would tell of each model.
    logging.getLogger(f"{__package__}.evaluation").setLevel(logging.WARNING)
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


def quickstart_on_scenes(arguments: argparse.Namespace) -> int:
    """Train a small model on synthetic scenes and print where its results are."""
    from .quickstart import run_quickstart

    metrics = run_quickstart(arguments.config_file, arguments.output)
    print("\n          PQ     SQ     RQ")
    for title, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st")):
        numbers = (metrics[f"panoptic_seg/{name}{suffix}"] for name in ("PQ", "SQ", "RQ"))
        print(f"{title:<7}", *(f"{number:6.1f}" for number in numbers))
    print(f"\nmetrics: {arguments.output / 'metrics.json'}\npicture: {arguments.output / 'panoptic.png'}")
    return 0


def synthesize_scenes(arguments: argparse.Namespace) -> int:
    """Write a dataset of synthetic scenes in COCO-panoptic form."""
    from .data.synthetic import write_scenes

    write_scenes(arguments.output, arguments.num, arguments.seed)
    print(f"wrote {arguments.num} scenes to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
