"""The table that a comparison prints and writes."""

from __future__ import annotations

import math

from panoptic_segformer.comparison.results import Comparison, ModelResult
from panoptic_segformer.comparison.table import comparison_tables


def rows(table):
    """Return the cells of a table by row and column."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    header, _, *body = lines
    return {line[0]: dict(zip(header, line, strict=True)) for line in body}


def table_of(*models):
    return comparison_tables(Comparison("title", [], [], models))


def test_measured_and_published_figures_stand_apart():
    measured = ModelResult(
        "one",
        qualities={"PQ": 41.234, "PQ_th": math.nan, "mIoU": 50.0},
        costs={"parameters": 51_218_780, "flops": 214.04e9, "latency_ms": 12.34, "peak_memory": 3e6},
        published={"PQ": 49.6, "source": "the authors"},
    )
    cells = rows(table_of(measured, ModelResult("two", note="words", qualities={"PQ": 1.0})))
    assert cells["one"] == {
        "model": "one",
        "PQ": "41.2",
        "mIoU": "50.0",
        "parameters (M)": "51.22",
        "GFLOPs": "214.0",
        "median (ms)": "12.3",
        "peak memory (MB)": "3",
        "published PQ": "49.6",
        "published by": "the authors",
        "note": "",
    }
    assert cells["two"]["PQ"] == "1.0"
    assert cells["two"]["published PQ"] == ""
    assert cells["two"]["note"] == "words"


def test_failed_models_have_a_row_with_the_beginning_of_their_error():
    cells = rows(table_of(ModelResult("good", qualities={"PQ": 1.0}), ModelResult("bad", error="a|b " + "word " * 99)))
    assert cells["bad"]["PQ"] == ""
    assert cells["bad"]["error"].startswith("a\\|b word")
    assert cells["bad"]["error"].endswith("...")
    assert len(cells["bad"]["error"]) <= 101
    assert cells["good"]["error"] == ""


def test_oracles_have_a_table_of_their_own():
    model = ModelResult("one", qualities={"PQ": 40.0}, oracles={"class": 50.0, "mask": 65.9})
    table = table_of(model, ModelResult("bad", error="no"))
    _, oracles = table.split("\n\n")
    expected = {"PQ if corrected by the truth": "one", "nothing": "40.0", "class": "50.0", "mask": "65.9"}
    assert rows(oracles) == {"one": expected}


def test_words_of_the_user_stay_in_their_cell():
    model = ModelResult("a|b", note="two\nlines", qualities={"PQ": 1.0}, published={"x|y": "1|2"})
    lines = table_of(model).splitlines()
    assert len(lines) == 3
    assert "| a\\|b " in lines[2]
    assert "two lines" in lines[2]
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[1].count("|")}
