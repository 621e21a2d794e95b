"""The report of an evaluation: one html file with its style inside; it needs no server and no network.

Shape legend: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from ..markup import Markup, element, join, number, table
from ..writing import whole_file
from .confusion import confusion_picture, mistakes
from .counting import Evaluation
from .quality import GROUPS, MEASURES, SIZE_LIMITS, SIZES

__all__ = ["write_report"]

DOCUMENT = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Panoptic quality</title>
<style>
$style
</style>
</head>
<body>
<header>
<h1>Panoptic quality</h1>
$facts
</header>
<main>
$sections
</main>
</body>
</html>
""")
MOST_MISTAKES = 20
STYLE = """
.confusion .frame { fill: var(--surface); stroke: var(--line); }
.confusion .right { fill: var(--accent); }
.confusion .wrong { fill: var(--warning); }
.confusion .name { font-weight: 400; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 2rem; }
.pictures figcaption { color: var(--muted); font-size: 0.85rem; }
"""
NOBODY = {"segments": "no segment", "pixels": "void"}


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the page; its folder must exist."""
    sections = [_figures(evaluation), _confusion(evaluation), _classes(evaluation)]
    text = DOCUMENT.substitute(style=_style(), facts=_facts(evaluation.facts), sections=join(sections))
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _style() -> str:
    shared = resources.files("panoptic_segformer.comparison.page").joinpath("page.css").read_text(encoding="utf-8")
    return shared + STYLE


def _facts(facts: Mapping[str, str]) -> Markup:
    entries = [element("div", element("dt", name), element("dd", fact)) for name, fact in facts.items()]
    return element("dl", *entries, class_="facts")


def _figures(evaluation: Evaluation) -> Markup:
    quality = evaluation.quality()
    groups = [
        [name, *(quality[f"{key}{ending}"] for key in (*MEASURES, "boundary_PQ"))]
        for name, (ending, _) in zip(("all", "things", "stuff"), GROUPS, strict=True)
    ]
    words = (
        "Means over classes, in percent. Within a class PQ = SQ x RQ; SQ is the mean IoU of found segments, RQ their "
        "F1. Boundary PQ takes the smaller of mask IoU and boundary IoU."
    )
    sizes = [
        [f"{size} ({limits})", *(qualities[key] for key in ("PQ", "PQ_th", "PQ_st", "SQ", "RQ")), *_numbers(counts)]
        for (size, qualities), limits, counts in zip(
            evaluation.size_qualities().items(), _size_limits(), evaluation.counts.sum(axis=1), strict=True
        )
    ]
    size_words = (
        "Found and missed segments have the size of the true one, false ones their own: each counts in one row. "
        "Means are over the classes that occur in that row."
    )
    return _section(
        "Figures",
        _numbers_table("All classes, things, stuff", ["", *MEASURES, "Boundary PQ"], groups),
        element("p", words, class_="remark"),
        _numbers_table(
            "By size", ["area, pixels", "PQ", "things", "stuff", "SQ", "RQ", "found", "false", "missed"], sizes
        ),
        element("p", size_words, class_="remark"),
    )


def _size_limits() -> list[str]:
    small, medium = SIZE_LIMITS
    return [f"below {small:,}", f"below {medium:,}", f"{medium:,} or more"]


def _numbers(counts: Sequence[float]) -> list[int]:
    """Return found, false and missed ones of counts (4,)."""
    return [int(count) for count in counts[1:]]


def _confusion(evaluation: Evaluation) -> Markup:
    names = [category["name"] for category in evaluation.categories]
    pictures = [
        element(
            "figure",
            confusion_picture(counts, [*names, NOBODY[unit]], unit),
            element("figcaption", caption),
        )
        for unit, counts, caption in (
            ("segments", evaluation.segments, "Segments whose masks match, whatever their class."),
            ("pixels", evaluation.pixels, "Pixels, instances of a class taken together."),
        )
    ]
    found = mistakes(evaluation.segments, [*names, NOBODY["segments"]])[:MOST_MISTAKES]
    rows = [[mistake.true, mistake.predicted, mistake.number, 100 * mistake.share] for mistake in found]
    words = (
        "The fuller a cell, the greater its share of the true class (its root, so that rare cases show); each row adds "
        "up to one, and the last one shares out what is predicted where nothing is. Hold the pointer on a cell for its "
        "numbers."
    )
    return _section(
        "What is taken for what",
        element("p", words, class_="remark"),
        element("div", *pictures, class_="pictures"),
        _numbers_table("The most frequent mistakes", ["true", "taken for", "segments", "% of the class"], rows),
    )


def _classes(evaluation: Evaluation) -> Markup:
    keys = [*MEASURES, "boundary_PQ", *(f"PQ_{size}" for size in SIZES), "found", "false", "missed"]
    occurring = [record for record in evaluation.classes() if not math.isnan(record["PQ"])]
    rows = [
        [record["name"], "thing" if record["isthing"] else "stuff", *(record[key] for key in keys)]
        for record in sorted(occurring, key=lambda record: record["PQ"])
    ]
    titles = [key.replace("_", " ").removeprefix("PQ ").replace("boundary", "Boundary") for key in keys]
    absent = len(evaluation.categories) - len(occurring)
    words = f"{absent} classes occur in neither truth nor prediction and count nowhere." if absent else ""
    return _section(
        "Classes",
        _numbers_table("Worst first", ["class", "kind", *titles], rows),
        element("p", words, class_="remark"),
    )


def _section(title: str, *content: Markup) -> Markup:
    return element("section", element("h2", title), *content)


def _numbers_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    """Return a table of rows, whose first word is their head."""
    columns = element("thead", element("tr", *(element("th", text, scope="col") for text in head)))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", _text(value)) for value in others))
        for first, *others in rows
    ]
    return table(caption, columns, element("tbody", join(body)))


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else number(value)
