"""Pictures and truth, checked before any model runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from comparison_fakes import CATEGORIES, GRASS, PERSON, SIZE, SKY, true_segments, write_dataset
from PIL import Image

from panoptic_segformer.comparison.material import collect_material, describe_some, picture_names
from panoptic_segformer.comparison.spec import ComparisonSpec, DatasetSpec


def spec_of(dataset=None, pictures=()):
    return ComparisonSpec("", (), dataset, tuple(map(str, pictures)), False, None)


@pytest.fixture
def dataset(tmp_path):
    """Paths of a dataset of three pictures."""
    return write_dataset(tmp_path / "data", (0, 2, 4))


def test_pictures_and_truth_of_a_dataset(dataset):
    material = collect_material(spec_of(DatasetSpec(**dataset)))
    assert [picture.name for picture in material.pictures] == ["scene0", "scene1", "scene2"]
    assert [picture.image_id for picture in material.pictures] == [0, 1, 2]
    assert [(c.id, c.name, c.isthing, c.color) for c in material.categories] == [
        (c["id"], c["name"], bool(c["isthing"]), tuple(c["color"])) for c in sorted(CATEGORIES, key=lambda c: c["id"])
    ]
    truth = material.truth_of(material.pictures[1])
    np.testing.assert_array_equal(truth.segment_ids, true_segments(2)[0])
    segments = {segment["category_id"]: segment for segment in truth.segments}
    assert {class_: segment["isthing"] for class_, segment in segments.items()} == {SKY: 0, GRASS: 0, PERSON: 1}
    assert segments[PERSON]["area"] == SIZE[0] // 2 * (SIZE[1] // 2 + 2)


def test_limit_takes_the_first_pictures_and_their_truth_alone(dataset):
    material = collect_material(spec_of(DatasetSpec(**dataset, limit=2)))
    assert [picture.name for picture in material.pictures] == ["scene0", "scene1"]
    assert list(material.truth.annotations) == [0, 1]


def test_relative_paths_start_at_the_datasets_folder(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    relative = {key: str(Path(value).relative_to(tmp_path)) for key, value in dataset.items()}
    assert len(collect_material(spec_of(DatasetSpec(**relative))).pictures) == 3


def test_pictures_that_cannot_be_read_are_left_out_with_a_message(dataset, caplog):
    Path(dataset["images"], "scene0.png").write_text("no picture")
    Path(dataset["images"], "scene2.png").unlink()
    material = collect_material(spec_of(DatasetSpec(**dataset)))
    assert [picture.name for picture in material.pictures] == ["scene1"]
    assert list(material.truth.annotations) == [1]
    broken, missing = material.left_out
    assert "scene0.png cannot be read" in broken
    assert "scene2.png does not exist" in missing
    (message,) = caplog.messages
    assert message == f"2 of 3 pictures are left out: {broken}; {missing}"


def test_thousands_of_bad_pictures_take_one_line():
    assert describe_some(["a", "b"]) == "a; b"
    assert describe_some([str(number) for number in range(5000)]) == "0; 1; 2 and 4997 more"


def test_nothing_that_can_be_read_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"none of the 1 pictures can be read.*a\.png"):
        collect_material(spec_of(pictures=[tmp_path / "a.png"]))


def test_pictures_without_truth(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / folder / "same.png")
    material = collect_material(spec_of(pictures=[tmp_path / "a", tmp_path / "b/*.png"]))
    assert [picture.name for picture in material.pictures] == ["same", "same_2"]
    assert material.truth is None
    assert material.truth_of(material.pictures[0]) is None
    assert material.categories == []


def test_names_differ_in_more_than_case():
    assert picture_names(["a/x.png", "b/X.jpg", "x_2.png", "x.bmp"]) == ["x", "X_2", "x_2_2", "x_3"]


def change_json(dataset, change):
    path = Path(dataset["panoptic_json"])
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0]["segments_info"].pop(), "0.png has 1 segment ids that the json"),
        (lambda c: c["images"][0].update(height=5), r"scene0.png has \(height, width\) \(32, 48\).*says \(5, 48\)"),
        (lambda c: c["images"].pop(0), "annotates picture id 0, which is not among its 'images'"),
        (lambda c: c["categories"].pop(0), r"segment \d+ of picture 0 the category_id 1, which its 'categories' lack"),
        (lambda c: c["annotations"].clear(), "lists no annotated pictures"),
    ],
)
def test_contradictions_of_the_truth_stop_the_comparison(dataset, change, message):
    change_json(dataset, change)
    with pytest.raises(ValueError, match=message):
        collect_material(spec_of(DatasetSpec(**dataset)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coco_2017_val_panoptik", "not registered with Detectron2, did you mean 'coco_2017_val_panoptic'"),
        ("coco_2017_val", "'coco_2017_val' has no panoptic truth, its metadata lacks panoptic_json, panoptic_root"),
    ],
)
def test_names_that_are_no_panoptic_dataset(name, message):
    with pytest.raises(ValueError, match=message):
        collect_material(spec_of(DatasetSpec(name=name)))


def test_registered_dataset_whose_files_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        collect_material(spec_of(DatasetSpec(name="coco_2017_val_panoptic")))
