"""The page's tables: what was measured, what others published, and where the errors are.

Published figures stand in a table of their own: they come from other machines, pictures and rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...markup import NONE, Markup, element, number, table
from ..results import ModelResult

__all__ = ["MEASURED", "measured_table", "oracle_table", "published_table"]

# Key of a published figure's origin among the figures.
SOURCE = "source"


@dataclass(frozen=True)
class Column:
    """A column of measured numbers.

    Attributes:
        group, title: the two lines of its head; columns of one group are neighbours and of one direction.
        key: in `ModelResult.qualities` or `ModelResult.costs`.
        meaning: in words.
        unit: what a shown 1 stands for.
        decimals: shown.
        more_is_better: else less.
    """

    group: str
    title: str
    key: str
    meaning: str
    unit: float = 1.0
    decimals: int = 1
    more_is_better: bool = True

    def shown(self, model: ModelResult) -> float:
        """Return a model's number as it is shown, rounded; nan where there is none."""
        value = model.qualities.get(self.key, model.costs.get(self.key, math.nan))
        return round(value / self.unit, self.decimals)

    def text(self, value: float) -> str:
        """Return the text of a number that `shown` returned."""
        return number(value, self.decimals)


def _quality(group: str, meaning: str) -> list[Column]:
    kinds = (("all", "", "all classes"), ("things", "_th", "things"), ("stuff", "_st", "stuff"))
    return [Column(group, title, group + suffix, f"{meaning}, {of}, in percent") for title, suffix, of in kinds]


def _cost(group: str, title: str, key: str, meaning: str, unit: float, decimals: int = 1) -> Column:
    return Column(group, title, key, meaning, unit, decimals, more_is_better=False)


MEASURED = [
    *_quality("PQ", "panoptic quality"),
    *_quality("SQ", "segmentation quality, the mean IoU of matched segments"),
    *_quality("RQ", "recognition quality, the F1 of segments"),
    Column("AP", "mask", "AP", "average precision of instance masks, in percent"),
    Column("AP", "box", "AP_box", "average precision of boxes, in percent"),
    Column("mIoU", "all", "mIoU", "mean IoU over classes, of the panoptic result, in percent"),
    Column("mIoU", "stuff", "mIoU_st", "mean IoU over classes of stuff, of the panoptic result, in percent"),
    _cost("Size", "M\N{NO-BREAK SPACE}param.", "parameters", "parameters, in millions", 1e6),
    _cost("Size", "GFLOPs", "flops", "multiply-adds of one picture, in thousand millions", 1e9),
    _cost("Latency, ms", "median", "latency_ms", "time of one picture with merging, median, in milliseconds", 1.0),
    _cost("Latency, ms", "p90", "latency_p90_ms", "time that nine of ten pictures keep within, in milliseconds", 1.0),
    _cost("Memory", "peak MB", "peak_memory", "greatest memory beyond the weights, in megabytes", 1e6, 0),
]


def measured_table(models: Sequence[ModelResult]) -> Markup:
    """Return the table of everything measured; columns without any number are left out.

    The best number of a column has a star if another model is worse.
    """
    columns = [column for column in MEASURED if not all(math.isnan(column.shown(model)) for model in models)]
    groups = [(name, list(members)) for name, members in groupby(columns, lambda column: column.group)]
    head = element(
        "thead",
        element("tr", element("th", "Model", rowspan=2, scope="col"), *(_group_head(*group) for group in groups)),
        element("tr", *(_column_head(column) for column in columns)),
    )
    best = {column: _best(column, models) for column in columns}
    body = element("tbody", *(_measured_row(model, best) for model in models))
    spans = [element("colgroup", *[element("col")] * len(members)) for _, members in groups]
    return table("Measured here", element("colgroup", element("col")), *spans, head, body)


def _group_head(name: str, columns: Sequence[Column]) -> Markup:
    arrow, words = ("↑", "more is better") if columns[0].more_is_better else ("↓", "less is better")
    direction = element("span", arrow, class_="arrow", role="img", aria_label=words, title=words)
    return element("th", name, direction, colspan=len(columns), scope="colgroup")


def _column_head(column: Column) -> Markup:
    return element("th", element("abbr", column.title, title=column.meaning), scope="col")


def _best(column: Column, models: Sequence[ModelResult]) -> float | None:
    """Return the best number of a column, None if it distinguishes no model."""
    values = {value for model in models if not math.isnan(value := column.shown(model))}
    if len(values) < 2:
        return None
    return max(values) if column.more_is_better else min(values)


def _measured_row(model: ModelResult, best: Mapping[Column, float | None]) -> Markup:
    name = element("th", model.name, scope="row")
    if model.error:
        error = element("p", element("strong", "Failed: "), model.error)
        return element("tr", name, element("td", error, colspan=max(1, len(best))), class_="failed")
    cells = []
    for column, best_value in best.items():
        value = column.shown(model)
        text = column.text(value)
        if value == best_value:
            star = element("span", "★", role="img", aria_label="best", title="best of this column")
            cells.append(element("td", star, text, class_="best"))
        else:
            cells.append(element("td", text))
    return element("tr", name, *cells)


def published_table(models: Sequence[ModelResult]) -> Markup | None:
    """Return the table of figures that others published, None if there are none."""
    known = [model for model in models if model.published]
    if not known:
        return None
    keys = [key for key in _keys(model.published for model in known) if key != SOURCE]
    head = [element("th", text, scope="col") for text in ("Model", *keys)]
    head.append(element("th", "Source", scope="col", class_="words"))
    rows = [
        element(
            "tr",
            element("th", model.name, scope="row"),
            *(element("td", _published(model.published.get(key))) for key in keys),
            element("td", _source(model.published.get(SOURCE)), class_="words"),
        )
        for model in known
    ]
    return table("Published by others", element("thead", element("tr", *head)), element("tbody", *rows))


def _published(value: float | str | None) -> str:
    return NONE if value is None else str(value)


def _source(source: float | str | None) -> str:
    text = "not given" if source is None else str(source)
    return element("a", text, href=text) if text.startswith(("https://", "http://")) else text


def oracle_table(models: Sequence[ModelResult]) -> Markup | None:
    """Return the table of what the truth would add to PQ, None if that was not asked for."""
    known = [model for model in models if model.oracles]
    if not known:
        return None
    kinds = _keys(model.oracles for model in known)
    head = [element("th", text, scope="col") for text in ("Model", "PQ", *(f"true {kind}" for kind in kinds))]
    rows = []
    for model in known:
        measured = model.qualities.get("PQ")
        cells = [_oracle_cell(model.oracles.get(kind), measured) for kind in kinds]
        rows.append(element("tr", element("th", model.name, scope="row"), element("td", number(measured)), *cells))
    return table("PQ with one kind of error corrected", element("thead", element("tr", *head)), element("tbody", *rows))


def _oracle_cell(value: float | None, measured: float | None) -> Markup:
    if value is None or measured is None or math.isnan(value - measured):
        return element("td", number(value))
    return element("td", number(value), " ", element("small", f"{value - measured:+.1f}"))


def _keys(records: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the keys of all records, each once, in their order."""
    return list(dict.fromkeys(key for record in records for key in record))
