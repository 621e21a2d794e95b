"""Time our evaluation of panoptic quality beside Detectron2's, and that of saved files beside panopticapi and hotcoco.

`python benchmarks/panoptic_quality.py [--truth JSON --png DIR] [--pictures N] [--runs N]`

Predictions are the truth, moved by some pixels, with segments relabelled, joined and lost; without --truth, that of 200
synthetic scenes of 480x640. Contenders take turns after one warm-up; the table has medians of wall seconds, and of the
processor's seconds in all threads and processes, which say more where others use the machine too. Detectron2 and
panopticapi count in as many processes as there are cores; ours counts in one, which reads the next png in two threads,
or in as many as it says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator
from panopticapi.evaluation import pq_compute
from panopticapi.utils import id2rgb
from PIL import Image
from tabulate import tabulate

from panoptic_segformer.data import write_scenes
from panoptic_segformer.evaluation.counting import evaluate_pictures
from panoptic_segformer.evaluation.panoptic import PanopticQualityEvaluator
from panoptic_segformer.evaluation.predictions import saved_pictures
from panoptic_segformer.evaluation.truth import PanopticTruth

NAME = "benchmark_panoptic_quality"
NUM_SCENES, SCENE_SIZE = 200, (480, 640)
# Input and output of a model for one picture.
Batch = tuple[dict[str, Any], dict[str, Any]]
# Returns PQ in percent.
Contender = Callable[[], float]


def main() -> None:
    """Print both tables."""
    arguments = _parse_arguments()
    logging.getLogger("panoptic_segformer").setLevel(logging.WARNING)
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="panoptic_quality") as folder:
        truth_json, truth_png = _truth_files(arguments, Path(folder))
        truth = _registered_truth(truth_json, truth_png)
        batches = [_prediction(truth, image_id, seed) for seed, image_id in enumerate(truth.annotations)]
        print(f"- truth: {arguments.truth or 'synthetic scenes'}, {len(batches)} pictures")
        print(f"- cores: {os.cpu_count()}, torch {torch.__version__}, {arguments.runs} runs after one warm-up")
        streaming = {
            "Detectron2": lambda: _evaluate(COCOPanopticEvaluator(NAME), batches),
            "ours": lambda: _evaluate(PanopticQualityEvaluator(PanopticTruth.of_dataset(NAME)), batches),
        }
        _print_times("predictions of a model, from process() to the results", streaming, arguments.runs)
        files = _save(truth, batches, Path(folder))
        _print_times("saved predictions, from files to the results", _file_contenders(truth, *files), arguments.runs)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, metavar="JSON", help="in COCO-panoptic form; default: synthetic scenes")
    parser.add_argument("--png", type=Path, metavar="DIR", help="its png")
    parser.add_argument("--pictures", type=int, metavar="N", help="the first ones only")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="default: %(default)s")
    arguments = parser.parse_args()
    if (arguments.truth is None) != (arguments.png is None):
        parser.error("give both --truth and --png, or neither")
    return arguments


def _truth_files(arguments: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Return json and folder of png with the pictures that were asked for."""
    source, png_root = arguments.truth, arguments.png
    if source is None:
        scenes = write_scenes(folder / "scenes", arguments.pictures or NUM_SCENES, seed=0, size=SCENE_SIZE)
        source, png_root = scenes / "panoptic.json", scenes / "panoptic_png"
    content = json.loads(source.read_text(encoding="utf-8"))
    # hotcoco refuses some contents of the others, such as numbers in 'info'.
    kept = {key: content[key] for key in ("images", "annotations", "categories")}
    kept["annotations"] = kept["annotations"][: arguments.pictures]
    path = folder / "truth.json"
    path.write_text(json.dumps(kept), encoding="utf-8")
    return path, png_root


def _registered_truth(path: Path, png_root: Path) -> PanopticTruth:
    """Register the truth for Detectron2, its models' classes being the json's ids."""
    truth = PanopticTruth.of_files(path, png_root)
    MetadataCatalog.get(NAME).set(
        panoptic_json=str(path),
        panoptic_root=str(png_root),
        thing_dataset_id_to_contiguous_id=truth.thing_ids,
        stuff_dataset_id_to_contiguous_id=truth.stuff_ids,
    )
    return truth


def _prediction(truth: PanopticTruth, image_id: int | str, seed: int) -> Batch:
    """Return input and output of a model that sees the truth of a picture with errors."""
    rng = np.random.default_rng(seed)
    true_ids = truth.segment_ids(image_id)
    ids, segments = np.zeros_like(true_ids), []
    for number, segment in enumerate(truth.annotations[image_id]["segments_info"], start=1):
        chance = rng.random()
        if chance < 0.1:
            continue  # Lost.
        is_joined = chance < 0.2 and segments
        ids[true_ids == segment["id"]] = segments[-1]["id"] if is_joined else number
        if not is_joined:
            others = truth.categories
            category = others[rng.integers(len(others))]["id"] if chance > 0.9 else segment["category_id"]
            segments.append({"id": number, "category_id": category, "isthing": category in truth.thing_ids})
    ids = np.roll(ids, rng.integers(-6, 7, 2), axis=(0, 1))
    picture = {"image_id": image_id, "file_name": f"{image_id}.jpg"}
    return picture, {"panoptic_seg": (torch.from_numpy(ids), segments)}


def _evaluate(evaluator: DatasetEvaluator, batches: list[Batch]) -> float:
    evaluator.reset()
    for picture, output in batches:
        ids, segments = output["panoptic_seg"]
        # Detectron2 changes the records.
        evaluator.process([picture], [{"panoptic_seg": (ids, [dict(segment) for segment in segments])}])
    return evaluator.evaluate()["panoptic_seg"]["PQ"]


def _save(truth: PanopticTruth, batches: list[Batch], folder: Path) -> tuple[Path, Path]:
    """Write the predictions in COCO-panoptic form and return json and folder of png."""
    png_root = folder / "predictions"
    png_root.mkdir()
    annotations = []
    for number, (picture, output) in enumerate(batches):
        ids, segments = output["panoptic_seg"]
        Image.fromarray(id2rgb(ids.numpy())).save(png_root / f"{number}.png")
        records = [{"id": segment["id"], "category_id": truth.category_id(segment)} for segment in segments]
        annotations.append({"image_id": picture["image_id"], "file_name": f"{number}.png", "segments_info": records})
    path = folder / "predictions.json"
    path.write_text(json.dumps({"annotations": annotations}), encoding="utf-8")
    return path, png_root


def _file_contenders(truth: PanopticTruth, path: Path, png_root: Path) -> dict[str, Contender]:
    files = str(truth.json_path), str(path), str(truth.png_root), str(png_root)

    def panopticapi() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return 100 * pq_compute(*files)["All"]["pq"]

    def ours(workers: int) -> float:
        read = PanopticTruth.of_files(truth.json_path, truth.png_root)
        return evaluate_pictures(saved_pictures(read, path, png_root), read.categories, workers).quality()["PQ"]

    contenders = {
        "panopticapi": panopticapi,
        "ours, all that `panseg evaluate` counts": lambda: ours(1),
        f"the same, {os.cpu_count()} processes": lambda: ours(os.cpu_count() or 1),
    }
    try:
        from hotcoco.panoptic import PanopticEval
    except ImportError:
        print("- hotcoco: not installed (pip install hotcoco)")
        return contenders

    def hotcoco() -> float:
        evaluation = PanopticEval(*files[:2], gt_folder=files[2], pred_folder=files[3])
        evaluation.evaluate()
        return 100 * evaluation.results()["All"]["pq"]

    return {**contenders, "hotcoco": hotcoco}


def _print_times(title: str, contenders: dict[str, Contender], runs: int) -> None:
    """Time all in turns, and print medians and ratios to the first."""
    qualities = {name: contender() for name, contender in contenders.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, contender in contenders.items():
            times[name].append(_seconds(contender))
    medians = {
        name: [statistics.median(column) for column in zip(*pairs, strict=True)] for name, pairs in times.items()
    }
    first = next(iter(medians.values()))
    rows = []
    for name, own in medians.items():
        columns = (_time_and_ratio(ours, other) for ours, other in zip(own, first, strict=True))
        rows.append([name, *itertools.chain.from_iterable(columns), f"{qualities[name]:.9f}"])
    head = ["", "wall s", "times faster", "processor s", "times less", "PQ"]
    print(f"\n### {title}\n")
    print(tabulate(rows, head, tablefmt="pipe", disable_numparse=True), flush=True)


def _time_and_ratio(ours: float, other: float) -> tuple[str, str]:
    """Return both as text; processor time comes in steps of hundredths, and can be none for a few pictures."""
    return f"{ours:.3f}", f"{other / ours:.1f}" if ours else "-"


def _seconds(call: Contender) -> tuple[float, float]:
    """Return wall and processor seconds of a call, those of its finished processes included."""
    wall, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4])


if __name__ == "__main__":
    main()
