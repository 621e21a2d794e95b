"""Run a comparison: models one after the other, then the same evaluation for all, then table, json and page."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import detectron2
import torch

from ..hashing import file_digest
from ..profiling.machine import device_name
from ..writing import whole_file
from .alignment import Alignment, align_classes, translate
from .blueprint import choose_device
from .cache import PredictionCache
from .job import Job, JobPicture, JobResult
from .material import Material, collect_material, describe_some
from .process import run_in_process
from .qualities import measure_qualities, panoptic_qualities
from .results import Comparison, ModelResult, Picture, Prediction
from .spec import ComparisonSpec, ModelSpec
from .table import comparison_tables

__all__ = ["JSON_FILE", "TABLE_FILE", "compare"]

logger = logging.getLogger(__name__)

JSON_FILE, TABLE_FILE = "comparison.json", "comparison.md"
# Letters of a model's name in its folder's: file systems allow 255 bytes.
FOLDER_WORDS = 60


def compare(
    spec: ComparisonSpec,
    output_dir: Path,
    *,
    cache: Path | None = None,
    device: str = "auto",
    costs: bool = True,
    runs: int = 3,
) -> Comparison:
    """Run all models of a comparison and write comparison.json, comparison.md and the page into a folder.

    A model that fails gets a result with its error; without any that works there is no page.

    Args:
        spec: what is compared.
        output_dir: made if it is missing.
        cache: folder of predictions and costs; default: `cache` in the output folder.
        device: "auto", "cpu" or "cuda".
        costs: whether costs are measured.
        runs: how often each timed picture is run.
    Raises: FileNotFoundError, ValueError: if the dataset or the pictures can't be used, or there is no such device.
    """
    chosen_device = choose_device(device)
    material = collect_material(spec)
    cache = cache or output_dir / "cache"
    pictures = [JobPicture(str(picture.path), picture.name, file_digest(picture.path)) for picture in material.pictures]
    results = []
    for number, model in enumerate(spec.models, 1):
        logger.info("model %d of %d: %s", number, len(spec.models), model.name)
        job = Job(model, pictures, str(cache.resolve()), device, costs, runs, spec.flops_size)
        words = re.sub(r"[^A-Za-z0-9]+", "-", model.name).strip("-").lower()
        result = run_in_process(job, output_dir / "models" / f"{number:02d}-{words[:FOLDER_WORDS]}")
        if result.error:
            logger.error("%s failed: %s", model.name, result.error)
        results.append(result)
    return _finish(spec, material, PredictionCache(cache), results, output_dir, device_name(chosen_device))


def _finish(
    spec: ComparisonSpec,
    material: Material,
    cache: PredictionCache,
    results: Sequence[JobResult],
    output_dir: Path,
    machine: str,
) -> Comparison:
    """Evaluate what the processes predicted and write everything."""
    alignment = align_classes(material.categories, [result.categories for result in results])
    predictions = _Predictions(cache, {m.name: i for i, m in enumerate(spec.models)}, results, alignment)
    models = [
        _evaluate(spec, model, result, material, predictions)
        for model, result in zip(spec.models, results, strict=True)
    ]
    comparison = Comparison(spec.title, material.pictures, alignment.categories, models, _facts(material, machine))
    _write_text(output_dir / JSON_FILE, json.dumps(_plain(comparison), indent=1) + "\n")
    _write_text(output_dir / TABLE_FILE, f"# {spec.title}\n\n{comparison_tables(comparison)}\n")
    if all(model.error for model in models):
        (output_dir / "index.html").unlink(missing_ok=True)  # An earlier comparison's would be taken for this one's.
    else:
        from .page import write_page

        write_page(comparison, output_dir, predictions.of, material.truth_of)
    return comparison


class _Predictions:
    """Predictions of all models under the ids that they share."""

    def __init__(
        self,
        cache: PredictionCache,
        places: Mapping[str, int],
        results: Sequence[JobResult],
        alignment: Alignment,
    ) -> None:
        self._cache, self._places, self._results, self._alignment = cache, places, results, alignment
        self._categories = {category.id: category for category in alignment.categories}

    def of(self, name: str, picture: Picture) -> Prediction:
        """Return what a model sees in a picture.

        Raises: ValueError: if its process did not predict that, or the cache was changed since.
        """
        place = self._places[name]
        key = self._results[place].keys.get(picture.name)
        prediction = self._cache.read(key) if key else None
        if prediction is None:
            raise ValueError(f"there is no prediction of {name!r} for {picture.name}: run the comparison again")
        return translate(prediction, self._alignment.ids[place], self._categories)

    def strange_segments(self, name: str, material: Material) -> str:
        """Say which classes a model predicts that the truth lacks, and how often; "" if none."""
        known = {category.id for category in material.categories}
        if not set(self._alignment.ids[self._places[name]].values()) - known:
            return ""
        segments = itertools.chain.from_iterable(self.of(name, picture).segments for picture in material.pictures)
        counts = Counter(segment["category_id"] for segment in segments if segment["category_id"] not in known)
        return ", ".join(f"{number} segments of {self._categories[id_].name}" for id_, number in counts.most_common())


def _evaluate(
    spec: ComparisonSpec,
    model: ModelSpec,
    result: JobResult,
    material: Material,
    predictions: _Predictions,
) -> ModelResult:
    measured = ModelResult(model.name, model.note, result.error, published=model.published or {})
    if result.error:
        return measured
    measured = replace(measured, facts=result.facts, costs=result.costs)
    if material.truth is None:
        return measured

    def prediction_of(picture: Picture) -> Prediction:
        return predictions.of(model.name, picture)

    logger.info("%s is evaluated", model.name)
    qualities, by_picture = measure_qualities(material.truth, material.pictures, prediction_of)
    oracles = _oracle_qualities(material, prediction_of) if spec.oracles else {}
    facts = dict(result.facts)
    if strange := predictions.strange_segments(model.name, material):
        facts["classes that the truth lacks"] = f"predicted in {strange}; pixels of these are wrong"
    return replace(measured, facts=facts, qualities=qualities, picture_qualities=by_picture, oracles=oracles)


def _oracle_qualities(material: Material, prediction_of: Callable[[Picture], Prediction]) -> dict[str, float]:
    """Return PQ with one kind of error corrected by the truth, by kind."""
    from .oracle import ORACLES, oracle_prediction

    def corrected(picture: Picture, kinds: frozenset[str]) -> Prediction:
        return oracle_prediction(prediction_of(picture), material.truth_of(picture), kinds)

    return {
        name: panoptic_qualities(
            material.truth, material.pictures, lambda picture, kinds=kinds: corrected(picture, kinds)
        ).all["PQ"]
        for name, kinds in ORACLES.items()
    }


def _facts(material: Material, machine: str) -> dict[str, str]:
    facts = {
        "dataset": material.description,
        "pictures": str(len(material.pictures)),
        "machine": machine,
        "versions": f"torch {torch.__version__}, detectron2 {detectron2.__version__}",
        "date": datetime.date.today().isoformat(),
    }
    if material.left_out:
        facts["left out"] = f"{len(material.left_out)}: {describe_some(material.left_out)}"
    return facts


def _plain(value: Any) -> Any:
    """Return a value as json knows it; numbers that are not finite become null."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | None) else str(value)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
