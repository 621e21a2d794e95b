"""`panseg evaluate`: how good saved predictions are."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import positive

HELP = "panoptic quality of saved predictions: by class, size and boundary, and a report page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    beside = "default: the folder named as the json without its ending"
    parser.add_argument("--truth", required=True, type=Path, metavar="JSON", help="in COCO-panoptic form")
    parser.add_argument("--truth-png", type=Path, metavar="DIR", help=f"its png; {beside}")
    parser.add_argument("--predictions", required=True, type=Path, metavar="JSON", help="of the same form")
    parser.add_argument("--predictions-png", type=Path, metavar="DIR", help=f"their png; {beside}")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for evaluation.json and index.html")
    parser.add_argument("--workers", type=positive, metavar="N", help="processes; default: one per core")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the tables, and write json and page if a folder is given."""
    import json

    from ..data.parallel import default_workers
    from ..evaluation.counting import evaluate_pictures, part_table
    from ..evaluation.page import write_report
    from ..evaluation.panoptic import quality_table
    from ..evaluation.predictions import folder_of, saved_pictures
    from ..evaluation.truth import PanopticTruth
    from ..writing import whole_file

    truth = PanopticTruth.of_files(arguments.truth, arguments.truth_png or folder_of(arguments.truth))
    predictions_png = arguments.predictions_png or folder_of(arguments.predictions)
    pictures = saved_pictures(truth, arguments.predictions, predictions_png)
    evaluation = evaluate_pictures(pictures, truth.categories, arguments.workers or default_workers())
    evaluation.facts.update(truth=str(arguments.truth), predictions=str(arguments.predictions))
    print(quality_table(evaluation.counts.sum(axis=0), truth.categories))
    print(f"\n{part_table(evaluation)}")
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        with whole_file(arguments.output / "evaluation.json") as partial:
            partial.write_text(json.dumps(evaluation.as_json(), indent=1), encoding="utf-8")
        write_report(evaluation, arguments.output / "index.html")
        print(f"\npage: {arguments.output / 'index.html'}")
    return 0
