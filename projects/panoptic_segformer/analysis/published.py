"""Results that documents print, row by row, with the place where they stand.

The rows are in published_results.yaml as they are printed, misprints included: a note says what is wrong. Nothing
there was measured by this project.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["PublishedResult", "averaging_gap", "load_published_results"]

RESULTS_FILE = Path(__file__).with_name("published_results.yaml")
# Thing and stuff classes of the panoptic datasets.
NUM_CLASSES = {"COCO": (80, 53), "ADE20K": (100, 50), "Cityscapes": (8, 11), "Mapillary Vistas": (37, 28)}
# What a column holds; every column of the file is one of these.
TEXT_COLUMNS = {"method", "backbone", "epochs", "setting", "crop", "device", "note"}
PERCENT_COLUMNS = {
    *("PQ", "PQ_th", "PQ_st", "SQ", "SQ_th", "SQ_st", "RQ", "RQ_th", "RQ_st", "boundary_PQ"),
    *("AP", "AP_box", "AP_S", "AP_M", "AP_L", "mIoU", "mIoU_ms", "mIoU_level2", "mIoU_level3", "iIoU", "IoU", "mBA"),
}
NUMBER_COLUMNS = {"parameters_M", "flops_G", "added_parameters_M", "added_flops_G", "fps", "seconds", "gain"}
_KINDS = {dict: "a mapping", list: "a list", str: "text"}
_TABLE_KEYS = {"document", "place", "dataset", "split", "columns", "rows"}


@dataclass(frozen=True)
class PublishedResult:
    """One row of a table.

    Attributes:
        document: key of the document; place: where in it the row stands.
        dataset: its name; split: "val", "test-dev", ...
        texts: what the row says in words, by column: method, backbone, epochs, note, ...
        numbers: what it says in numbers, by column; a column that is empty in the row is left out. PQ, AP, IoU and
            the like in percent, parameters in millions, FLOPs in 10^9 by the document's own counting.
    """

    document: str
    place: str
    dataset: str
    split: str
    texts: dict[str, str]
    numbers: dict[str, float]

    @property
    def name(self) -> str:
        """Short words that tell the row from others of its table."""
        return " ".join(value for key, value in self.texts.items() if key in ("method", "backbone", "setting"))


def load_published_results(path: Path = RESULTS_FILE) -> list[PublishedResult]:
    """Return all rows of a file of published results.

    Raises: ValueError: if the file has another form, an unknown column or document, or a number out of range (names
        the table and row). FileNotFoundError: if there is no such file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no yaml: {error}; mend it there, see {RESULTS_FILE}") from error
    if not isinstance(content, dict) or set(content) != {"documents", "tables"}:
        raise ValueError(f"{path} must have the keys 'documents' and 'tables', see {RESULTS_FILE}")
    documents = content["documents"]
    _check_kind(documents, dict, f"{path}: documents")
    _check_kind(content["tables"], list, f"{path}: tables")
    results = []
    for table in content["tables"]:
        if not isinstance(table, dict) or set(table) != _TABLE_KEYS:
            raise ValueError(f"{path}: a table must have the keys {sorted(_TABLE_KEYS)}, got {table!r:.80}")
        where = f"{path}, {table['document']}, {table['place']}"
        for key in ("document", "place", "dataset", "split"):
            _check_kind(table[key], str, f"{where}: {key}")
        if table["document"] not in documents:
            raise ValueError(f"{where}: the document is none of {list(documents)}: add it there")
        _check_columns(table["columns"], where)
        _check_kind(table["rows"], list, f"{where}: rows")
        results += _rows(table, where)
    return results


def averaging_gap(result: PublishedResult) -> float | None:
    """Return by how much the PQ of a row exceeds the average of its things and stuff, weighted by their classes.

    None where the row lacks one of them, or its dataset has no known numbers of classes.
    """
    values = [result.numbers.get(column) for column in ("PQ", "PQ_th", "PQ_st")]
    if None in values or result.dataset not in NUM_CLASSES:
        return None
    quality, of_things, of_stuff = values
    num_things, num_stuff = NUM_CLASSES[result.dataset]
    return quality - (num_things * of_things + num_stuff * of_stuff) / (num_things + num_stuff)


def _check_kind(value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{what} must be {_KINDS[kind]}, got {value!r:.80}; see {RESULTS_FILE}")


def _check_columns(columns: Any, where: str) -> None:
    _check_kind(columns, list, f"{where}: columns")
    for column in columns:
        _check_kind(column, str, f"{where}: a column")
    unknown = set(columns) - TEXT_COLUMNS - PERCENT_COLUMNS - NUMBER_COLUMNS
    if unknown or len(set(columns)) < len(columns) or "method" not in columns:
        raise ValueError(
            f"{where}: columns must be different ones of {sorted(TEXT_COLUMNS | PERCENT_COLUMNS | NUMBER_COLUMNS)}, "
            f"'method' among them; got {columns}"
        )


def _rows(table: dict[str, Any], where: str) -> Iterator[PublishedResult]:
    columns = table["columns"]
    for row in table["rows"]:
        _check_kind(row, list, f"{where}: a row")
        # A note may be left out at the end.
        missing = len(columns) - len(row)
        if missing not in ((0, 1) if columns[-1] == "note" else (0,)):
            raise ValueError(f"{where}: row {row} must have a value for each of {columns}; ~ stands for none")
        cells = {column: value for column, value in zip(columns, row, strict=False) if value is not None}
        for column, value in cells.items():
            _check_cell(column, value, f"{where}, row {row}")
        texts = {column: value for column, value in cells.items() if column in TEXT_COLUMNS}
        numbers = {column: float(value) for column, value in cells.items() if column not in TEXT_COLUMNS}
        yield PublishedResult(table["document"], table["place"], table["dataset"], table["split"], texts, numbers)


def _check_cell(column: str, value: Any, where: str) -> None:
    if column in TEXT_COLUMNS:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{where}: {column} must be text, got {value!r}; put numbers into quotes")
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    highest = 100 if column in PERCENT_COLUMNS else math.inf
    if not is_number or not 0 <= value <= highest:
        raise ValueError(f"{where}: {column} must be a number from 0 to {highest}, got {value!r}")
