"""A comparison as tables that are readable both in a terminal and as markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import shorten

from tabulate import tabulate

from .results import Comparison, ModelResult

__all__ = ["comparison_tables"]

QUALITY_COLUMNS = (
    *(f"{measure}{group}" for group in ("", "_th", "_st") for measure in ("PQ", "SQ", "RQ")),
    *("AP", "AP_box", "mIoU", "mIoU_st"),
)
# Column, key of the costs, unit, digits behind the point.
COST_COLUMNS = (
    ("parameters (M)", "parameters", 1e6, 2),
    ("GFLOPs", "flops", 1e9, 1),
    ("median (ms)", "latency_ms", 1, 1),
    ("p90 (ms)", "latency_p90_ms", 1, 1),
    ("peak memory (MB)", "peak_memory", 1e6, 0),
)
NOT_FIGURES = ("source",)
# The whole error is in the json.
ERROR_WIDTH = 100


def comparison_tables(comparison: Comparison) -> str:
    """Return the measured qualities and costs, and the oracles if there are any, one row per model.

    Columns that no model has are left out; figures of others stand in columns "published ...".
    """
    models = comparison.models
    columns: dict[str, list[str]] = {"model": [model.name for model in models]}
    for name in QUALITY_COLUMNS:
        columns[name] = _column(models, lambda model, name=name: _number(model.qualities, name))
    for title, key, unit, digits in COST_COLUMNS:
        columns[title] = _column(
            models, lambda model, key=key, unit=unit, digits=digits: _number(model.costs, key, unit, digits)
        )
    for name in _keys(model.published for model in models):
        title = f"published {name}" if name not in NOT_FIGURES else "published by"
        columns[title] = _column(models, lambda model, name=name: str(model.published.get(name, "")))
    columns["note"] = [model.note for model in models]
    columns["error"] = [shorten(model.error, ERROR_WIDTH, placeholder=" ...") for model in models]
    parts = [_table(columns)]
    if corrected := [model for model in models if model.oracles]:
        oracles = {
            "PQ if corrected by the truth": [model.name for model in corrected],
            "nothing": _column(corrected, lambda model: _number(model.qualities, "PQ")),
        }
        for kind in _keys(model.oracles for model in corrected):
            oracles[kind] = _column(corrected, lambda model, kind=kind: _number(model.oracles, kind))
        parts.append(_table(oracles))
    return "\n\n".join(parts)


def _column(models: Sequence[ModelResult], cell: Callable[[ModelResult], str]) -> list[str]:
    return [cell(model) for model in models]


def _number(values: Mapping[str, float], key: str, unit: float = 1, digits: int = 1) -> str:
    value = values.get(key, math.nan)
    return f"{value / unit:.{digits}f}" if math.isfinite(value) else ""


def _keys(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the keys of some mappings, each once, in their order."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _table(columns: Mapping[str, list[str]]) -> str:
    shown = {_cell(title): list(map(_cell, cells)) for title, cells in columns.items() if any(cells)}
    numeric = {title for title, cells in shown.items() if any(cells) and all(_is_number(cell) for cell in cells)}
    alignment = ["right" if title in numeric else "left" for title in shown]
    return tabulate(shown, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=alignment)


def _cell(text: str) -> str:
    """Return a text that neither ends its cell nor its line."""
    return " ".join(text.split()).replace("|", "\\|")


def _is_number(cell: str) -> bool:
    try:
        return cell == "" or math.isfinite(float(cell))
    except ValueError:
        return False
