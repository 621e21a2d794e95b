"""The results of a robustness run as a table, as json and as a picture.

Shape legend: H, W size of a picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from ..data.reading import read_picture
from ..visualization import draw_panoptic, side_by_side, write_picture
from ..writing import whole_file
from .corruptions import CORRUPTIONS, Corruption, corrupt_picture
from .measuring import Measurement, Robustness

__all__ = ["draw_corruptions", "robustness_table", "write_results"]

RESULTS_FILE, TABLE_FILE, PICTURE_FILE = "robustness.json", "robustness.md", "corruptions.jpg"
CLEAN = "clean"
PANELS_IN_ROW = 4
# Pixels.
PANEL_WIDTH = 400
WHITE = 255


def robustness_table(robustness: Robustness) -> str:
    """Return PQ in percent by corruption, in the order of the paper's table, readable as markdown.

    Columns are the severities, if there are several, then their mean and what that is in percent of the clean PQ.
    """
    severities = sorted({corruption.severity for corruption in robustness.corrupted})
    names = list(dict.fromkeys(corruption.name for corruption in robustness.corrupted))
    qualities = np.array(
        [[robustness.corrupted[Corruption(name, severity)]["PQ"] for severity in severities] for name in names]
    )
    clean = robustness.clean["PQ"]

    def row(name: str, values: Sequence[float | str], mean: float) -> list[str | float]:
        share = 100 * mean / clean if clean else math.nan
        return [_group(name), name, *(values if len(severities) > 1 else ()), mean, share]

    rows = [row(CLEAN, [""] * len(severities), clean)]
    rows += [row(name, values, values.mean()) for name, values in zip(names, qualities, strict=True)]
    rows.append(row("mean", qualities.mean(axis=0), qualities.mean()))
    single = len(severities) == 1
    titles = ["PQ"] if single else [*(f"severity {severity}" for severity in severities), "mean PQ"]
    header = ["", f"corruption, severity {severities[0]}" if single else "corruption", *titles, "% of clean"]
    return tabulate(rows, header, tablefmt="pipe", floatfmt=".1f")


def write_results(robustness: Robustness, output: Path) -> None:
    """Write the table and a json with all measures, classes included; what is nan there is null."""
    content = {
        "facts": dict(robustness.facts),
        CLEAN: _finite(robustness.clean),
        "corruptions": [
            {
                "name": corruption.name,
                "group": _group(corruption.name),
                "severity": corruption.severity,
                "qualities": _finite(qualities),
            }
            for corruption, qualities in robustness.corrupted.items()
        ],
        "mean": _finite(_mean(list(robustness.corrupted.values()))),
    }
    facts = "\n".join(f"- {name}: {value}" for name, value in robustness.facts.items())
    for file, text in (
        (RESULTS_FILE, json.dumps(content, indent=1)),
        (TABLE_FILE, f"{robustness_table(robustness)}\n\n{facts}"),
    ):
        with whole_file(output / file) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


def draw_corruptions(
    measurement: Measurement, corruptions: Sequence[Corruption], record: Mapping[str, Any], path: Path
) -> None:
    """Write a picture of one scene, clean and under each corruption, with the model's results below each.

    Args:
        measurement: the model.
        corruptions: kinds and severities, in rows of four.
        record: one of the measurement's records.
        path: where the picture is written.
    """
    cells = [_cell(measurement, record, corruption) for corruption in (None, *corruptions)]
    blank = ("", np.full_like(cells[0][0][1], WHITE))
    # The clean scene has a row of its own, so that those below are the groups of the table.
    rows = [cells[:1], *(cells[start : start + PANELS_IN_ROW] for start in range(1, len(cells), PANELS_IN_ROW))]
    strips = []
    for row in rows:
        filled = [*row, *[(blank, blank)] * (PANELS_IN_ROW - len(row))]
        strips += [side_by_side(panels) for panels in zip(*filled, strict=True)]
    write_picture(np.concatenate(strips), path)


def _cell(
    measurement: Measurement, record: Mapping[str, Any], corruption: Corruption | None
) -> tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]:
    """Return the titled picture and the titled result of a scene."""
    image = read_picture(record["file_name"], "RGB")
    if corruption is not None:
        image = corrupt_picture(image, corruption)
    with torch.no_grad():
        (result,) = measurement.model([measurement.mapper(corruption)(record)])
    ids, segments = result["panoptic_seg"]
    drawn = draw_panoptic(image, ids, segments, measurement.model.categories, with_labels=False, with_legend=False)
    title = CLEAN if corruption is None else str(corruption)
    return (title, _of_panel_width(image)), (f"{len(segments)} segments", _of_panel_width(drawn))


def _of_panel_width(picture: np.ndarray) -> np.ndarray:
    size = PANEL_WIDTH, max(1, round(picture.shape[0] * PANEL_WIDTH / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _group(name: str) -> str:
    return next((group for group, names in CORRUPTIONS.items() if name in names), "")


def _mean(qualities: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {measure: float(np.mean([entry[measure] for entry in qualities])) for measure in qualities[0]}


def _finite(qualities: Mapping[str, float]) -> dict[str, float | None]:
    return {measure: value if math.isfinite(value) else None for measure, value in qualities.items()}
