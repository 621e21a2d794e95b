"""The table of a robustness run, from hand-made numbers."""

from __future__ import annotations

import json
import math

from panoptic_segformer.robustness.corruptions import Corruption
from panoptic_segformer.robustness.measuring import Robustness
from panoptic_segformer.robustness.report import robustness_table, write_results


def cells(table: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [rows[0], *rows[2:]]


def of(values: dict[tuple[str, int], float], clean: float = 80.0) -> Robustness:
    corrupted = {Corruption(*key): {"PQ": value, "PQ-cat": math.nan} for key, value in values.items()}
    return Robustness({"PQ": clean, "PQ-cat": math.nan}, corrupted, {"dataset": "scenes"})


def test_table_of_one_severity():
    assert cells(robustness_table(of({("motion_blur", 3): 40.0, ("fog", 3): 60.0}))) == [
        ["", "corruption, severity 3", "PQ", "% of clean"],
        ["", "clean", "80.0", "100.0"],
        ["blur", "motion_blur", "40.0", "50.0"],
        ["weather", "fog", "60.0", "75.0"],
        ["", "mean", "50.0", "62.5"],
    ]


def test_table_of_several_severities():
    values = {("motion_blur", 1): 60.0, ("motion_blur", 5): 20.0, ("fog", 1): 80.0, ("fog", 5): 40.0}
    assert cells(robustness_table(of(values))) == [
        ["", "corruption", "severity 1", "severity 5", "mean PQ", "% of clean"],
        ["", "clean", "", "", "80.0", "100.0"],
        ["blur", "motion_blur", "60.0", "20.0", "40.0", "50.0"],
        ["weather", "fog", "80.0", "40.0", "60.0", "75.0"],
        ["", "mean", "70.0", "30.0", "50.0", "62.5"],
    ]


def test_share_of_nothing_is_no_number():
    assert cells(robustness_table(of({("fog", 3): 0.0}, clean=0.0)))[1][-1] == "nan"


def test_json_has_means_and_null_for_what_is_no_number(tmp_path):
    write_results(of({("motion_blur", 3): 40.0, ("fog", 3): 60.0}), tmp_path)
    content = json.loads((tmp_path / "robustness.json").read_text())
    assert content["mean"] == {"PQ": 50.0, "PQ-cat": None}
    assert content["clean"] == {"PQ": 80.0, "PQ-cat": None}
    assert content["corruptions"][0] == {
        "name": "motion_blur", "group": "blur", "severity": 3, "qualities": {"PQ": 40.0, "PQ-cat": None},
    }  # fmt: skip
