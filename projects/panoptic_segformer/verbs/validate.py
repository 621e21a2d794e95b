"""`panseg validate`: everything that is wrong with a dataset, before a training finds it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import positive

if TYPE_CHECKING:
    from ..data.datasets import PanopticPaths

HELP = "check a dataset: faults with counts and examples, statistics, a corrected json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config-file", metavar="YAML", help="check the datasets that a config trains and tests on")
    parser.add_argument("--dataset", metavar="NAME", help="only this one of the config, which may be any it knows")
    parser.add_argument("--json", metavar="FILE", help="without a config: the panoptic json,")
    parser.add_argument("--png", metavar="DIR", help="the folder of png,")
    parser.add_argument("--images", metavar="DIR", help="and the folder of pictures")
    parser.add_argument("--workers", type=positive, metavar="N", help="processes; default: as many as there are cores")
    parser.add_argument(
        "--examples", type=positive, default=5, metavar="N", help="places that are named of each fault; default: 5"
    )
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write what was found as json")
    parser.add_argument("--statistics", type=Path, metavar="FILE.png", help="draw classes and sizes (one dataset)")
    parser.add_argument("--fix", type=Path, metavar="NEW.json", help="write a corrected json (one dataset)")


def run(arguments: argparse.Namespace) -> int:
    """Print the faults of datasets; return 1 if there are errors, warnings alone are no reason."""
    from ..data.parallel import default_workers
    from ..data.validation import Severity, correct, validate
    from ..data.validation.fixing import check_new
    from ..data.validation.report import correction_text, report_text, write_report

    datasets = _datasets(arguments)
    if len(datasets) > 1 and (arguments.fix or arguments.statistics):
        raise ValueError(f"--fix and --statistics need one dataset: choose by --dataset from {', '.join(datasets)}")
    if arguments.fix:
        check_new(arguments.fix)
    for path in filter(None, (arguments.report, arguments.statistics)):
        if not path.parent.is_dir():
            raise ValueError(f"{path} can't be written: folder {path.parent} does not exist, make it first")
    validations = {}
    for name, paths in datasets.items():
        validation = validate(paths, workers=arguments.workers or default_workers(), num_examples=arguments.examples)
        validations[name] = validation
        print(report_text(name, validation))
    if arguments.report:
        write_report(validations, arguments.report)
    if arguments.fix:
        correction = correct(validation)
        correction.write(arguments.fix)
        print(correction_text(correction, arguments.fix))
    if arguments.statistics:
        from ..data.validation.statistics import plot_statistics

        plot_statistics(validation, arguments.statistics)
    return 1 if any(validation.count(Severity.ERROR) for validation in validations.values()) else 0


def _datasets(arguments: argparse.Namespace) -> dict[str, PanopticPaths]:
    """Return where the datasets lie that the arguments name."""
    from .. import load_config
    from ..data.datasets import PanopticPaths, configured_paths

    files = (arguments.images, arguments.json, arguments.png)
    if arguments.config_file is None:
        if None in files or arguments.dataset:
            raise ValueError("give --json, --png and --images, or --config-file with the datasets")
        return {Path(arguments.json).name: PanopticPaths(*files)}
    if any(files):
        raise ValueError("give --config-file, or --json, --png and --images, not both")
    cfg = load_config(arguments.config_file)
    names = [arguments.dataset] if arguments.dataset else [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names:
        raise ValueError(f"{arguments.config_file} names no dataset in DATASETS.TRAIN and DATASETS.TEST")
    return {name: configured_paths(cfg, name) for name in names}
