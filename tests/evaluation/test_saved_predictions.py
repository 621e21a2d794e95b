"""Evaluation of saved predictions: files in, numbers, json and page out."""

from __future__ import annotations

import contextlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panopticapi.evaluation import pq_compute
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_segformer.cli import main
from panoptic_segformer.evaluation.confusion import confusion_picture, mistakes
from panoptic_segformer.evaluation.counting import evaluate_pictures
from panoptic_segformer.evaluation.predictions import saved_pictures
from panoptic_segformer.evaluation.quality import SIZES
from panoptic_segformer.evaluation.truth import PanopticTruth


class Files:
    """Truth and predictions on disk."""

    def __init__(self, folder: Path, scenes: Path) -> None:
        self.truth, self.truth_png = scenes / "panoptic.json", scenes / "panoptic_png"
        self.predictions, self.predictions_png = folder / "predicted.json", folder / "predicted"

    def arguments(self) -> list[str]:
        return [
            "evaluate",
            *("--truth", str(self.truth), "--truth-png", str(self.truth_png)),
            *("--predictions", str(self.predictions), "--workers", "1"),
        ]

    def edit(self, change) -> None:
        content = json.loads(self.predictions.read_text())
        change(content)
        self.predictions.write_text(json.dumps(content))


@pytest.fixture
def files(tmp_path: Path, scene_folder: Path) -> Files:
    """Predictions for the scenes: the truth moved, some of it relabelled, joined or lost."""
    files = Files(tmp_path, scene_folder)
    files.predictions_png.mkdir()
    truth = PanopticTruth.of_files(files.truth, files.truth_png)
    generator = np.random.default_rng(3)
    annotations = []
    for image_id, annotation in truth.annotations.items():
        ids = np.roll(truth.segment_ids(image_id), generator.integers(-3, 4, 2), axis=(0, 1))
        records = [{"id": s["id"], "category_id": s["category_id"]} for s in annotation["segments_info"]]
        first, second = generator.choice(len(records), 2, replace=False)
        records[first]["category_id"] = records[second]["category_id"]
        ids[ids == records[second]["id"]] = 0
        present = set(np.unique(ids).tolist())
        file_name = f"picture_{image_id}.png"
        Image.fromarray(id2rgb(ids)).save(files.predictions_png / file_name)
        segments = [record for record in records if record["id"] in present]
        annotations.append({"image_id": image_id, "file_name": file_name, "segments_info": segments})
    files.predictions.write_text(json.dumps({"annotations": annotations}))
    return files


def evaluation_of(files: Files, workers: int = 1):
    truth = PanopticTruth.of_files(files.truth, files.truth_png)
    return evaluate_pictures(saved_pictures(truth, files.predictions, files.predictions_png), truth.categories, workers)


def test_quality_equals_panopticapi_s_command(files: Files) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        expected = pq_compute(
            str(files.truth), str(files.predictions), str(files.truth_png), str(files.predictions_png)
        )
    evaluation = evaluation_of(files)
    quality = evaluation.quality()
    for group, ending in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for key in ("pq", "sq", "rq"):
            assert quality[f"{key.upper()}{ending}"] == pytest.approx(100 * expected[group][key], abs=1e-9)
    for record in evaluation.classes():
        value = 100 * expected["per_class"][record["id"]]["pq"]
        assert record["PQ"] == pytest.approx(value, abs=1e-9) or (np.isnan(record["PQ"]) and value == 0)
    assert 20 < quality["PQ"] < 90
    assert quality["boundary_PQ"] < quality["PQ"]


def test_several_processes_count_the_same(files: Files) -> None:
    one, two = evaluation_of(files), evaluation_of(files, workers=2)
    for name in ("counts", "boundary_counts", "pixels", "segments"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_confusion_of_segments_and_counts_agree(files: Files) -> None:
    evaluation = evaluation_of(files)
    total = evaluation.counts.sum(axis=0)
    segments = evaluation.segments
    np.testing.assert_array_equal(segments.diagonal()[:-1], total[:, 1])
    # Every true segment is in its column, crowds apart; found in another class counts as missed.
    np.testing.assert_array_equal(segments.sum(axis=0)[:-1], total[:, 1] + total[:, 3])
    off_diagonal = segments.sum() - segments.trace()
    assert off_diagonal > segments[:, -1].sum() + segments[-1].sum() > 0
    assert evaluation.pixels.sum() == 6 * 96 * 128


def test_a_class_taken_for_another_is_the_first_mistake() -> None:
    confusion = np.array([[5, 3, 0], [0, 1, 2], [1, 0, 0]])
    first, *others = mistakes(confusion, ["cat", "dog", "nothing"])
    assert (first.true, first.predicted, first.number, first.share) == ("dog", "cat", 3, 0.75)
    # What is predicted where nothing is, is no mistake about a true class.
    assert [(other.true, other.predicted) for other in others] == [("cat", "nothing")]


def test_cells_of_the_picture_tell_their_numbers() -> None:
    confusion = np.array([[5, 3, 0, 0], [0, 1, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]])
    picture = confusion_picture(confusion, ["cat", "<dog>", "unseen", "nothing"], "segments")
    assert "true &lt;dog&gt;, predicted cat: 3 segments (75.0%)" in picture
    assert "unseen" not in picture
    assert picture.count('class="wrong"') == 2
    assert picture.count('class="right"') == 2


class Links(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_command_prints_tables_and_writes_json_and_page(files: Files, tmp_path: Path, capsys) -> None:
    output = tmp_path / "new" / "report"
    assert main([*files.arguments(), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    content = json.loads((output / "evaluation.json").read_text())
    assert re.search(rf"\| all +\| +{content['quality']['PQ']:.2f} ", printed)
    assert re.search(rf"\| boundary +\| +{content['quality']['boundary_PQ']:.2f} ", printed)
    assert set(content["sizes"]) == set(SIZES)
    assert sum(1 for record in content["classes"] if record["PQ"] is None) >= 1
    page = (output / "index.html").read_text()
    parser = Links()
    parser.feed(page)
    assert parser.found == []
    assert "http" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    worst = min((r for r in content["classes"] if r["PQ"] is not None), key=lambda record: record["PQ"])
    assert re.search(rf'<th scope="row">{worst["name"]}</th>', page)
    assert page.count("<svg") == 2


def test_without_output_nothing_is_written(files: Files, tmp_path: Path, capsys) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(files.arguments()) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_predictions_of_other_pictures_are_left_out(files: Files) -> None:
    expected = evaluation_of(files).quality()
    files.edit(lambda c: c["annotations"].append({"image_id": 99, "file_name": "no.png", "segments_info": []}))
    assert evaluation_of(files).quality() == expected


def drop_picture(content: dict[str, Any]) -> None:
    del content["annotations"][2]


def repeat_picture(content: dict[str, Any]) -> None:
    content["annotations"].append(content["annotations"][0])


def unknown_class(content: dict[str, Any]) -> None:
    content["annotations"][1]["segments_info"][0]["category_id"] = 1


def drop_segment(content: dict[str, Any]) -> None:
    del content["annotations"][0]["segments_info"][0]


def add_segment(content: dict[str, Any]) -> None:
    content["annotations"][0]["segments_info"].append({"id": 123456, "category_id": 2})


def other_file(content: dict[str, Any]) -> None:
    content["annotations"][0]["file_name"] = "nowhere.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_picture, r"no prediction for 1 of the 6 pictures .* ids 3: predict all of them"),
        (repeat_picture, "annotates 1 pictures more than once, ids 1"),
        (unknown_class, r"picture 2 the category_id 1, which .*panoptic\.json does not have"),
        (drop_segment, r"picture_1\.png has 1 segment ids that the json does not list"),
        (add_segment, r"picture_1\.png lacks 1 of the \d+ segments that the json lists for it: 123456"),
        (other_file, r"picture .*nowhere\.png does not exist"),
        (lambda content: content.pop("annotations"), "it has no list 'annotations'"),
    ],
)
def test_damaged_predictions_stop_with_a_message(files: Files, tmp_path: Path, capsys, change, message: str) -> None:
    files.edit(change)
    output = tmp_path / "report"
    assert main([*files.arguments(), "--output", str(output)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()


def test_pictures_of_another_size_are_named(files: Files, capsys) -> None:
    path = files.predictions_png / "picture_1.png"
    with Image.open(path) as image:
        image.resize((64, 48), Image.Resampling.NEAREST).save(path)
    assert main(files.arguments()) == 2
    assert "picture_1.png has (height, width) (48, 64), its picture has (96, 128)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--truth", "panoptic json .* does not exist"),
        ("--truth-png", "folder .* of the png that belong to .*panoptic.json does not exist"),
        ("--predictions-png", "folder .* of the png that belong to .*predicted.json does not exist"),
        ("--predictions", "folder .*|panoptic json .* does not exist"),
    ],
)
def test_missing_files_are_named(files: Files, tmp_path: Path, capsys, option: str, message: str) -> None:
    assert main([*files.arguments(), option, str(tmp_path / "missing.json")]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_truth_with_an_unknown_class_names_the_picture(files: Files, tmp_path: Path, capsys) -> None:
    content = json.loads(files.truth.read_text())
    segment = content["annotations"][3]["segments_info"][1]
    segment["category_id"] = 1
    (tmp_path / "odd.json").write_text(json.dumps(content))
    assert main([*files.arguments(), "--truth", str(tmp_path / "odd.json")]) == 2
    message = f"segment {segment['id']} of picture 4 the category_id 1, which its 'categories' lack"
    assert message in capsys.readouterr().err


def test_a_truth_without_pictures_is_an_error(files: Files, tmp_path: Path, capsys) -> None:
    content = json.loads(files.truth.read_text())
    (tmp_path / "empty.json").write_text(json.dumps({**content, "annotations": []}))
    assert main([*files.arguments(), "--truth", str(tmp_path / "empty.json")]) == 2
    assert "annotates no pictures" in capsys.readouterr().err
