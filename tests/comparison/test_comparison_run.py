"""Whole comparisons, each model in its own process."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import yaml
from comparison_fakes import SEPARATED, count_calls, person_overlap, write_dataset, write_project

from panoptic_segformer.cli import main


@pytest.fixture
def pages(monkeypatch):
    """The pages that are written, in place of html: what they were asked to show."""
    shown = []

    def write_page(comparison, output_dir, prediction_of, truth_of):
        shown.append(SimpleNamespace(comparison=comparison, prediction_of=prediction_of, truth_of=truth_of))
        return output_dir / "index.html"

    monkeypatch.setitem(sys.modules, "panoptic_segformer.comparison.page", SimpleNamespace(write_page=write_page))
    return shown


def write_spec(folder, **content):
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_clashing_projects_in_one_comparison(tmp_path, pages, capsys):
    """Both register a meta-architecture of the same name, which is ours too; a third project crashes."""
    clash = {"registered": "PanopticSegFormer"}
    seeing = write_project(tmp_path, "seeing", **clash) | {
        "note": "sees all",
        "published": {"PQ": 50.1, "source": "a paper"},
    }
    blind = write_project(tmp_path, "blind", sees_person=False, dataset=SEPARATED, **clash)
    crashing = write_project(tmp_path, "crashing", in_forward="os.abort()", **clash)
    spec = write_spec(tmp_path, dataset=write_dataset(tmp_path / "data"), models=[seeing, crashing, blind])
    arguments = ["compare", str(spec), "--output", str(tmp_path / "out"), "--device", "cpu", "--runs", "2"]

    assert main(arguments) == 1
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    first, failed, second = content["models"]
    overlap = (1 + person_overlap(4)) / 2
    assert first["qualities"]["PQ_th"] == pytest.approx(100 * overlap)
    assert second["qualities"]["PQ_th"] == 0
    assert first["qualities"]["AP"] > 0
    assert "AP" not in second["qualities"]
    assert first["picture_qualities"]["scene0"] == pytest.approx(100)
    assert first["costs"]["parameters"] == 2
    assert 0 < first["costs"]["latency_ms"] <= first["costs"]["latency_p90_ms"]
    assert "peak_memory" in first["costs"] or "peak memory" in first["facts"]
    assert first["costs"]["flops"] == 1
    assert "SIGABRT" in failed["error"]
    assert not failed["qualities"]

    captured = capsys.readouterr()
    assert captured.out.split("\n\npage")[0] in (tmp_path / "out/comparison.md").read_text()
    header = captured.out.splitlines()[0]
    assert "published PQ" in header
    assert "| published by" in header
    assert "crashing failed: the process was killed by SIGABRT" in captured.err

    shown = pages[0]
    picture = shown.comparison.pictures[0]
    assert len(shown.prediction_of("seeing", picture).segments) == 3
    assert len(shown.prediction_of("blind", picture).segments) == 2
    assert {segment["category_id"] for segment in shown.truth_of(picture).segments} == {1, 187, 193}
    assert [category.id for category in shown.comparison.categories][:3] == [1, 187, 193]

    # Everything is in the cache now, so the models that worked are not called again.
    calls = count_calls(seeing), count_calls(blind)
    assert main([*arguments, "--only", "seeing", "blind"]) == 0
    assert (count_calls(seeing), count_calls(blind)) == calls
    again = json.loads((tmp_path / "out/comparison.json").read_text())["models"]
    assert [model["name"] for model in again] == ["seeing", "blind"]
    assert again[0]["qualities"] == first["qualities"]
