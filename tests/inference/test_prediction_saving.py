from __future__ import annotations

import json
import os

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st
from panopticapi.evaluation import pq_compute
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.datasets import PanopticPaths, load_panoptic
from panoptic_segformer.data.reading import check_segments, read_panoptic_json, read_segment_colors
from panoptic_segformer.inference.result import PanopticResult
from panoptic_segformer.inference.saving import (
    dataset_category_ids,
    dataset_image_ids,
    save_masks,
    save_panoptic,
)

# Contiguous ids are not the dataset's.
DATASET_IDS = {(True, 0): 18, (True, 2): 90, (False, 1): 44}
CATEGORIES = Categories((0, 2), (1,), ("cat", "big dog/wolf"), ("sky",), ((200, 0, 0), (0, 9, 0)), ((0, 0, 200),))


@pytest.fixture
def dataset():
    name = "saving_test"
    MetadataCatalog.get(name).set(
        thing_dataset_id_to_contiguous_id={18: 0, 90: 2}, stuff_dataset_id_to_contiguous_id={44: 1}
    )
    yield name
    MetadataCatalog.remove(name)


def result_of(ids, classes):
    """Return a result with a class (isthing, contiguous id) per segment id from 1."""
    info = [
        {"id": number, "category_id": own, "isthing": isthing, "score": 0.5, "area": int((ids == number).sum())}
        for number, (isthing, own) in enumerate(classes, start=1)
    ]
    image = np.zeros((*ids.shape, 3), np.uint8)
    return PanopticResult.from_output(image, {"panoptic_seg": (ids.astype(np.int32), info)}, CATEGORIES)


def example(shift=0):
    ids = np.zeros((20, 30), int)
    ids[2:10, 3 + shift : 12 + shift] = 1
    ids[12:, :] = 2
    ids[0, 29] = 3
    return result_of(ids, [(True, 0), (False, 1), (True, 2)])


def test_saved_predictions_are_a_dataset_in_coco_panoptic_form(tmp_path, dataset):
    results = {name: example(shift) for shift, name in enumerate(("a", "b", "c"))}
    with save_panoptic(tmp_path / "panoptic", [dataset], CATEGORIES) as saver:
        for name, result in results.items():
            saver.add(tmp_path / f"{name}.jpg", name, result)
            (tmp_path / f"{name}.jpg").write_bytes(b"")
    folder = tmp_path / "panoptic"
    assert sorted(os.listdir(folder)) == ["predictions", "predictions.json"]
    content = read_panoptic_json(folder / "predictions.json")
    assert [(one["id"], one["name"], one["isthing"]) for one in content["categories"]] == [
        (18, "cat", 1),
        (44, "sky", 0),
        (90, "big dog/wolf", 1),
    ]
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    for name, annotation in zip(results, content["annotations"], strict=True):
        path = folder / "predictions" / annotation["file_name"]
        colors = read_segment_colors(path, (20, 30))
        check_segments(path, colors, {segment["id"] for segment in annotation["segments_info"]})
        assert np.array_equal(rgb2id(colors), results[name].segment_ids)
        for segment, own in zip(annotation["segments_info"], results[name].segments, strict=True):
            assert segment["category_id"] == DATASET_IDS[own.isthing, own.category_id]
            rows, columns = np.nonzero(rgb2id(colors) == segment["id"])
            assert segment["area"] == len(rows)
            width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
            assert segment["bbox"] == [columns.min(), rows.min(), width, height]
    entries = load_panoptic(PanopticPaths(str(tmp_path), str(folder / "predictions.json"), str(folder / "predictions")))
    assert len(entries) == 3


def test_saved_predictions_are_evaluated_by_panopticapi(tmp_path, dataset):
    for name, shift in (("truth", 0), ("same", 0), ("other", 2)):
        with save_panoptic(tmp_path / name, [dataset], CATEGORIES) as saver:
            saver.add(tmp_path / "a.jpg", "a", example(shift))
    quality = {
        name: pq_compute(str(tmp_path / "truth/predictions.json"), str(tmp_path / name / "predictions.json"))["All"][
            "pq"
        ]
        for name in ("same", "other")
    }
    assert quality["same"] == 1
    # Of the cat's 9 columns 7 are found; the 2 beside them are void in the truth, where nothing is wrong.
    assert quality["other"] == pytest.approx((2 + 7 / 9) / 3)


def test_pictures_of_a_dataset_keep_their_ids(tmp_path, dataset):
    truth = {
        "images": [
            {"id": 700 + number, "file_name": f"deep/{number}.jpg", "height": 2, "width": 2} for number in range(3)
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    MetadataCatalog.get(dataset).set(panoptic_json=str(tmp_path / "truth.json"))
    assert dataset_image_ids([dataset]) == {"0.jpg": 700, "1.jpg": 701, "2.jpg": 702}
    for names, expected in ((["2", "0"], [702, 700]), (["2", "stranger"], [1, 2])):
        with save_panoptic(tmp_path / "out", [dataset], CATEGORIES) as saver:
            for name in names:
                saver.add(tmp_path / f"{name}.jpg", name, example())
        content = json.loads((tmp_path / "out/predictions.json").read_text())
        assert [image["id"] for image in content["images"]] == expected
        assert [annotation["image_id"] for annotation in content["annotations"]] == expected


def test_ids_that_would_be_ambiguous_are_not_used(tmp_path, dataset):
    other = "saving_test_other"
    for name, pictures in ((dataset, {"x/1.jpg": 7, "y/1.jpg": 8, "2.jpg": 9}), (other, {"3.jpg": 9})):
        images = [{"id": id_, "file_name": file, "height": 2, "width": 2} for file, id_ in pictures.items()]
        content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat", "isthing": 1}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        MetadataCatalog.get(name).set(panoptic_json=str(tmp_path / f"{name}.json"))
    assert dataset_image_ids([dataset, other]) == {"2.jpg": 9, "3.jpg": 9}
    for names, expected in ((["2"], [9]), (["1"], [1]), (["2", "3"], [1, 2])):
        with save_panoptic(tmp_path / "out", [dataset, other], CATEGORIES) as saver:
            for name in names:
                saver.add(tmp_path / f"{name}.jpg", name, example())
        content = json.loads((tmp_path / "out/predictions.json").read_text())
        assert [image["id"] for image in content["images"]] == expected
    MetadataCatalog.remove(other)


@pytest.mark.parametrize("content", ["own/truth/a.png", "own/notes.txt", "own"])
def test_folder_with_anything_else_is_not_replaced(tmp_path, dataset, content):
    own, file = tmp_path / "own", tmp_path / content
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    for saving in (lambda: save_masks(own), lambda: save_panoptic(own, [dataset], CATEGORIES)):
        with pytest.raises(ValueError, match="no prediction and would be lost: give another output folder"), saving():
            pass
    assert file.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["own"]


def test_category_ids_of_the_separated_form_leave_all_things_out():
    separated = Categories((0, 1), (1,), ("cat", "dog"), ("sky",), ((1, 2, 3),) * 2, ((4, 5, 6),))
    name = "separated_saving_test"
    MetadataCatalog.get(name).set(
        thing_dataset_id_to_contiguous_id={1: 0, 3: 1}, stuff_dataset_id_to_contiguous_id={0: 0, 92: 1}
    )
    assert dataset_category_ids(name, separated) == {(True, 0): 1, (True, 1): 3, (False, 1): 92}
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("form", ["panoptic", "masks"])
def test_saving_is_whole_or_not_at_all(tmp_path, dataset, form):
    def saving():
        return (
            save_panoptic(tmp_path / form, [dataset], CATEGORIES) if form == "panoptic" else save_masks(tmp_path / form)
        )

    def content():
        return {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    def fail(name):
        with saving() as saver:
            saver.add(tmp_path / f"{name}.jpg", name, example())
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail("a")
    assert content() == {}
    with saving() as saver:
        saver.add(tmp_path / "a.jpg", "a", example())
    first = content()
    assert first
    with pytest.raises(OSError, match="disk full"):
        fail("b")
    assert content() == first
    with saving() as saver:
        saver.add(tmp_path / "b.jpg", "b", example(3))
    assert not any(path.name == "a.png" or path.parent.name == "a" for path in content()), "replaced as a whole"


def test_folder_of_something_else_is_never_replaced(tmp_path, dataset):
    """Datasets, too, have folders that are called `panoptic` and `masks`."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/000001.png").write_bytes(b"work of weeks")
    for saving in (save_panoptic(tmp_path / "own", [dataset], CATEGORIES), save_masks(tmp_path / "own")):
        with pytest.raises(ValueError, match=r"000001\.png is no prediction and would be lost"), saving:
            pass
    assert (tmp_path / "own/000001.png").read_bytes() == b"work of weeks"


def test_no_pictures_give_an_empty_list(tmp_path, dataset):
    with save_panoptic(tmp_path / "out", [dataset], CATEGORIES):
        pass
    assert json.loads((tmp_path / "out/predictions.json").read_text())["images"] == []


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_boxes_areas_and_masks_are_those_of_the_id_map(height, width, count, seed):
    ids = np.random.default_rng(seed).integers(0, count + 1, (height, width))
    present = [number for number in range(1, count + 1) if (ids == number).any()]
    ids = np.searchsorted(present, ids, side="right") * np.isin(ids, present)
    result = result_of(ids, [(True, 0)] * len(present))
    for segment in result.segments:
        rows, columns = np.nonzero(segment.mask)
        assert segment.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert segment.area == len(rows)


def test_masks_are_black_and_white_png_with_a_list(tmp_path):
    result = example()
    with save_masks(tmp_path / "masks") as saver:
        saver.add(tmp_path / "walk.jpg", "walk", result)
    folder = tmp_path / "masks/walk"
    content = json.loads((folder / "segments.json").read_text())
    assert content["picture"] == "walk.jpg"
    assert [record["mask"] for record in content["segments"]] == [
        "0001_cat.png",
        "0002_sky.png",
        "0003_big-dog-wolf.png",
    ]
    for record, segment in zip(content["segments"], result.segments, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / record["mask"])), segment.mask)
        assert (record["name"], record["box"]) == (segment.name, list(segment.box))
