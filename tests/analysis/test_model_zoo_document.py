"""The numbers in docs/model_zoo.md are those of the configs and of the published results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from panoptic_segformer import load_config
from panoptic_segformer.analysis import averaging_gap, build_for_sizing, count_parameters, load_published_results

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/model_zoo.md").read_text(encoding="utf-8")
# Config, parameters and trainable parameters of each row that names a config.
ROWS = re.findall(r"^\| `([\w/]+)` .*? ([\d,]+) \(([\d,]+)\) \|", TEXT, flags=re.MULTILINE)


def test_every_row_of_a_config_is_read():
    assert len(ROWS) == len(re.findall(r"^\| `\w+/", TEXT, flags=re.MULTILINE)) >= 12


@pytest.mark.parametrize(("name", "total", "trainable"), ROWS, ids=[name for name, *_ in ROWS])
def test_measured_parameters_are_those_of_the_config(name, total, trainable, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    size = count_parameters(build_for_sizing(load_config(ROOT / f"configs/{name}.yaml"), "meta"))
    assert (f"{size.total:,}", f"{size.trainable:,}") == (total, trainable)


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_numbers_of_published_rows():
    results = load_published_results()
    gaps = [gap for gap in map(averaging_gap, results) if gap is not None]
    assert f"holds {len(results)} rows" in TEXT
    assert f"{len(gaps)} rows print" in TEXT


def test_code_prints_the_rows_that_do_not_average(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 12
    assert any("58.7" in line for line in printed)
