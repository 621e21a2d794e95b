"""Scenes in other layouts, converted back: the segments are those of the scenes, and validation finds no fault."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conversion_truth import faults, output, truth_of
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as rle

from panoptic_segformer.data.conversion import (
    convert_ade20k,
    convert_cityscapes,
    convert_instances,
    convert_labelme,
)
from panoptic_segformer.data.conversion.ade20k import ADE20K_CATEGORIES
from panoptic_segformer.data.conversion.labels import read_classes
from panoptic_segformer.data.synthetic import write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Scenes; of the first, the first thing is a crowd."""
    folder = write_scenes(tmp_path_factory.mktemp("conversion") / "scenes", 3, seed=7, size=(64, 96))
    content = json.loads((folder / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"][0]["iscrowd"] = 1
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder


def each(folder: Path):
    """Yield image entry, id map and segments of each picture."""
    content = json.loads((folder / "panoptic.json").read_text())
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        ids = rgb2id(np.asarray(Image.open(folder / "panoptic_png" / annotation["file_name"])))
        yield image, ids, annotation["segments_info"]


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def expected(folder: Path) -> dict:
    return truth_of(folder / "panoptic.json", folder / "panoptic_png")


# --- instances and semantic png


def write_instances(folder: Path, root: Path, is_index: bool) -> Path:
    """Things as RLE in a json, every class as a value of a png, 255 where there is none."""
    content = json.loads((folder / "panoptic.json").read_text())
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    annotations = []
    for image, ids, segments in each(folder):
        values = np.full(ids.shape, 255, np.uint8)
        for segment in segments:
            mask = ids == segment["id"]
            values[mask] = segment["category_id"] - is_index  # ids are 1, 2, ...
            if segment["category_id"] in things:
                encoded = rle.encode(np.asfortranarray(mask))
                encoded["counts"] = encoded["counts"].decode()
                keys = {"category_id": segment["category_id"], "iscrowd": segment["iscrowd"]}
                annotations.append({"image_id": image["id"], "segmentation": encoded, **keys})
        save(values, root / "semantic" / image["file_name"].replace(".jpg", ".png"))
    path = root / "instances.json"
    path.write_text(json.dumps({"images": content["images"], "annotations": annotations}))
    return path


@pytest.mark.parametrize("values", ["id", "index"])
def test_instances_and_semantic_png_give_the_scenes(scenes, tmp_path, values):
    path, made = write_instances(scenes, tmp_path, values == "index"), output(tmp_path)
    classes = read_classes(scenes / "panoptic.json")
    number = convert_instances(path, tmp_path / "semantic", classes, made, values=values)
    assert truth_of(made.json, made.png) == expected(scenes)
    assert number == sum(len(segments) for *_, segments in each(scenes))
    assert faults(made, scenes / "images") == {}


def test_thing_pixels_without_instance_are_void(scenes, tmp_path):
    path, made = write_instances(scenes, tmp_path, False), output(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"] = []
    path.write_text(json.dumps(content))
    convert_instances(path, tmp_path / "semantic", read_classes(scenes / "panoptic.json"), made)
    stuff = {c["name"] for c in read_classes(scenes / "panoptic.json") if not c["isthing"]}
    for name, segments in expected(scenes).items():
        assert truth_of(made.json, made.png)[name] == {segment for segment in segments if segment[0] in stuff}


def test_instances_of_processes_are_those_of_one(scenes, tmp_path):
    path = write_instances(scenes, tmp_path, False)
    classes = read_classes(scenes / "panoptic.json")
    made = [output(tmp_path / name, workers=workers) for name, workers in (("a", 1), ("b", 2))]
    for one in made:
        convert_instances(path, tmp_path / "semantic", classes, one)
    assert made[0].json.read_text() == made[1].json.read_text()


def damage(**changes):
    def apply(content):
        content["annotations"][0].update(changes)

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage(category_id=99), "category id 99"),
        (damage(category_id=7), "no thing"),
        (damage(image_id=99), "picture ids that it lacks: .99."),
        (damage(segmentation=[[1]]), "instance  of 000001.jpg: a segmentation"),
        (lambda content: content["annotations"][0].pop("segmentation"), "lacks one of"),
        (lambda content: content.pop("images"), "no list 'images'"),
        (lambda content: content["images"][0].update(height=9), "has .height, width. .64, 96."),
        (lambda content: content["images"][0].update(file_name="../000001.jpg"), "leads out"),
        (lambda content: content["images"][0].update(file_name="/etc/000001.jpg"), "leads out"),
        (lambda content: content["images"][0].update(file_name="C:\\000001.jpg"), "leads out"),
        (lambda content: content["images"][0].update(file_name="absent.jpg"), "does not exist"),
        (lambda content: content["images"][0].update(file_name="000002.png"), "several pictures"),
        (lambda content: content["images"][0].update(file_name=7), "file name 7 is no name"),
        (lambda content: content["images"][0].update(file_name="."), "file name '.' is no name"),
        (lambda content: content["images"][0].update(id=[1]), r"has id \[1\]: ids are numbers or texts"),
        (lambda content: content["images"][1].update(id=1), r"several pictures of ids \[1\]"),
        (damage(category_id={}), "has category_id {}"),
        (
            lambda content: content.update(categories=[{"id": 1, "name": "cow"}]),
            "calls category id 1 'cow', the classes",
        ),
        (lambda content: content["images"].clear() or content["annotations"].clear(), "no picture"),
    ],
)
def test_wrong_instances_are_refused_and_nothing_is_written(scenes, tmp_path, change, message):
    path, made = write_instances(scenes, tmp_path, False), output(tmp_path / "new")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert_instances(path, tmp_path / "semantic", read_classes(scenes / "panoptic.json"), made)
    assert not list(tmp_path.glob("new/*"))


def test_semantic_value_that_is_no_class_is_refused_unless_it_is_void(scenes, tmp_path):
    path, made = write_instances(scenes, tmp_path, False), output(tmp_path)
    values = np.asarray(Image.open(tmp_path / "semantic/000002.png")).copy()
    values[0, 0] = 77
    save(values, tmp_path / "semantic/000002.png")
    classes = read_classes(scenes / "panoptic.json")
    with pytest.raises(ValueError, match="value 77, which is no class"):
        convert_instances(path, tmp_path / "semantic", classes, made)
    assert convert_instances(path, tmp_path / "semantic", classes, made, void=(77, 255)) > 0


@pytest.mark.parametrize("mode", ["RGB", "1"])
def test_semantic_png_without_numbers_is_refused(scenes, tmp_path, mode):
    path = write_instances(scenes, tmp_path, False)
    png = tmp_path / "semantic/000001.png"
    Image.open(png).convert(mode).save(png)
    with pytest.raises(ValueError, match="one number per pixel"):
        convert_instances(path, tmp_path / "semantic", read_classes(scenes / "panoptic.json"), output(tmp_path))


# --- Cityscapes and ADE20K


def as_classes(folder: Path, classes: list[dict], root: Path) -> Path:
    """The scenes with other classes: the k-th thing class for their k-th, likewise stuff."""
    content = json.loads((folder / "panoptic.json").read_text())
    new = [[c for c in classes if bool(c["isthing"]) == kind] for kind in (False, True)]
    order = [[c for c in content["categories"] if bool(c["isthing"]) == kind] for kind in (False, True)]
    other = {
        old["id"]: to for kind in (0, 1) for old, to in zip(order[kind], new[kind][-len(order[kind]) :], strict=True)
    }
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = other[segment["category_id"]]["id"]
    content["categories"] = list(other.values())
    root.mkdir()
    (root / "panoptic_png").symlink_to(folder / "panoptic_png")
    (root / "panoptic.json").write_text(json.dumps(content))
    return root


def test_cityscapes_layout_gives_the_scenes(scenes, tmp_path):
    labelled = as_classes(scenes, CITYSCAPES_CATEGORIES, tmp_path / "labelled")
    names = {}
    for image, ids, segments in each(labelled):
        instance_ids = np.full(ids.shape, 3, np.uint16)  # "out of roi", a label that is not evaluated
        things = {c["id"] for c in CITYSCAPES_CATEGORIES if c["isthing"]}
        for number, segment in enumerate(segments):
            label = segment["category_id"]
            told_apart = label in things and not segment["iscrowd"]
            instance_ids[ids == segment["id"]] = 1000 * label + number if told_apart else label
        city = f"city{image['id'] % 2}"
        names[f"{city}/{city}_{image['id']}_leftImg8bit.png"] = image["file_name"]
        save(instance_ids, tmp_path / f"gtFine/val/{city}/{city}_{image['id']}_gtFine_instanceIds.png")
        picture = np.asarray(Image.open(scenes / "images" / image["file_name"]))
        save(picture, tmp_path / f"leftImg8bit/val/{city}/{city}_{image['id']}_leftImg8bit.png")
    made = output(tmp_path)
    convert_cityscapes(tmp_path, "val", made)
    found = {names[name]: segments for name, segments in truth_of(made.json, made.png).items()}
    assert found == expected(labelled)
    assert faults(made, tmp_path / "leftImg8bit/val") == {}
    assert [c["id"] for c in json.loads(made.json.read_text())["categories"]] == [
        c["id"] for c in CITYSCAPES_CATEGORIES
    ]


def write_ade20k(labelled: Path, root: Path) -> None:
    things = [c["id"] for c in ADE20K_CATEGORIES if c["isthing"]]
    for image, ids, segments in each(labelled):
        classes, instances = np.zeros(ids.shape, np.uint8), np.zeros((*ids.shape, 3), np.uint8)
        for number, segment in enumerate(segments, start=1):
            mask = ids == segment["id"]
            classes[mask] = segment["category_id"] + 1
            if segment["category_id"] in things:
                instances[mask] = things.index(segment["category_id"]) + 1, number, 0
        name = image["file_name"].replace(".jpg", ".png")
        save(classes, root / "annotations/validation" / name)
        save(instances, root / "annotations_instance/validation" / name)


def without_crowds(labelled: Path) -> Path:
    """ADE20K has none."""
    path = labelled / "panoptic.json"
    path.write_text(path.read_text().replace('"iscrowd": 1', '"iscrowd": 0'))
    return labelled


def test_ade20k_layout_gives_the_scenes(scenes, tmp_path):
    labelled = without_crowds(as_classes(scenes, ADE20K_CATEGORIES, tmp_path / "labelled"))
    write_ade20k(labelled, tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/validation").symlink_to(scenes / "images")
    made = output(tmp_path)
    convert_ade20k(tmp_path, "validation", made)
    assert truth_of(made.json, made.png) == expected(labelled)
    assert faults(made, scenes / "images") == {}


def test_ade20k_labels_that_are_not_its_own_are_refused(scenes, tmp_path):
    write_ade20k(without_crowds(as_classes(scenes, ADE20K_CATEGORIES, tmp_path / "labelled")), tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/validation").symlink_to(scenes / "images")
    instances = tmp_path / "annotations_instance/validation/000001.png"
    for array, message in (
        (np.full((64, 96, 3), 101, np.uint8), "number 101, classes are 1 to 100"),
        (np.zeros((64, 95, 3), np.uint8), "both label one picture"),
    ):
        save(array, instances)
        with pytest.raises(ValueError, match=message):
            convert_ade20k(tmp_path, "validation", output(tmp_path))
    instances.unlink()
    with pytest.raises(FileNotFoundError, match="000001.png"):
        convert_ade20k(tmp_path, "validation", output(tmp_path))
    with pytest.raises(FileNotFoundError, match="training"):
        convert_ade20k(tmp_path, "training", output(tmp_path))
    assert not output(tmp_path).json.exists()


def test_ade20k_thing_pixels_without_instance_are_void(scenes, tmp_path):
    labelled = without_crowds(as_classes(scenes, ADE20K_CATEGORIES, tmp_path / "labelled"))
    write_ade20k(labelled, tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/validation").symlink_to(scenes / "images")
    for path in (tmp_path / "annotations_instance/validation").iterdir():
        instances = np.asarray(Image.open(path)).copy()
        instances[..., 1] = 0
        save(instances, path)
    made = output(tmp_path)
    convert_ade20k(tmp_path, "validation", made)
    stuff = {category["name"] for category in ADE20K_CATEGORIES if not category["isthing"]}
    for name, segments in expected(labelled).items():
        assert truth_of(made.json, made.png)[name] == {segment for segment in segments if segment[0] in stuff}


def test_ade20k_has_100_things():
    assert len(ADE20K_CATEGORIES) == 150
    assert sum(category["isthing"] for category in ADE20K_CATEGORIES) == 100
    names = {category["name"] for category in ADE20K_CATEGORIES if category["isthing"]}
    assert {"bed", "person", "car", "flag"} <= names
    assert not {"wall", "sky", "river", "shower"} & names


@pytest.mark.slow
def test_ade20k_of_real_pictures(shared_dir, tmp_path):
    """Labels made of real truth; which classes are things is checked against that truth."""
    source = shared_dir / "data/ade20k3"
    content = json.loads((source / "panoptic.json").read_text())
    assert [c["isthing"] for c in content["categories"]] == [c["isthing"] for c in ADE20K_CATEGORIES]
    renamed = as_ade20k(source, tmp_path / "labelled")
    write_ade20k(renamed, tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/validation").symlink_to(source / "images")
    made = output(tmp_path)
    convert_ade20k(tmp_path, "validation", made)
    assert truth_of(made.json, made.png) == truth_of(renamed / "panoptic.json", source / "panoptic_png")
    assert faults(made, source / "images") == {}


def as_ade20k(source: Path, root: Path) -> Path:
    """The truth with ids from 0 and Detectron2's names."""
    content = json.loads((source / "panoptic.json").read_text())
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] -= 1
    content["categories"] = ADE20K_CATEGORIES
    root.mkdir()
    (root / "panoptic_png").symlink_to(source / "panoptic_png")
    (root / "panoptic.json").write_text(json.dumps(content))
    return root


def test_instances_of_real_pictures(shared_dir, tmp_path):
    source = shared_dir / "data/coco_tiny_free"
    made = output(tmp_path)
    classes = read_classes(source / "panoptic.json")
    convert_instances(source / "instances.json", source / "sem_seg", classes, made, values="index")
    assert truth_of(made.json, made.png) == truth_of(source / "panoptic.json", source / "panoptic_png")
    assert faults(made, source / "images") == {}


# --- labelme

CLASSES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "grass", "isthing": 0},
    {"id": 3, "name": "sky", "isthing": 0},
]


def box(label, left, top, right, bottom, **more):
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon", **more}


SHAPES = [
    box("cat", 2, 2, 6, 6),
    {"label": "sky", "points": [[0, 0], [20, 5]], "group_id": None, "shape_type": "rectangle"},
    box("grass", 0, 5, 20, 10),
    box("cat", 10, 1, 12, 3, group_id=4),
    box("cat", 14, 1, 16, 3, group_id=4),
    box("grass", 0, 10, 5, 12, group_id=None),
]


def write_labelme(root: Path, shapes=SHAPES, picture="../images/a.jpg", **changes) -> Path:
    (root / "images").mkdir(exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    Image.new("RGB", (20, 12)).save(root / "images/a.jpg")
    content = {"shapes": shapes, "imagePath": picture, "imageHeight": 12, "imageWidth": 20, "imageData": None}
    (root / "labels/a.json").write_text(json.dumps({**content, **changes}))
    return root / "labels"


def test_labelme_shapes_become_segments(tmp_path):
    made = output(tmp_path)
    convert_labelme(write_labelme(tmp_path), tmp_path / "images", CLASSES, made)
    cat, pair, grass, sky = (np.zeros((12, 20), bool) for _ in range(4))
    cat[2:6, 2:6] = pair[1:3, 10:12] = pair[1:3, 14:16] = True
    grass[5:10] = grass[10:, :5] = True
    sky[:5] = True
    masks = [("cat", cat), ("cat", pair), ("grass", grass & ~cat), ("sky", sky & ~cat & ~pair)]
    assert truth_of(made.json, made.png) == {"a.jpg": {(name, 0, mask.tobytes()) for name, mask in masks}}
    assert faults(made, tmp_path / "images") == {}


def test_labelme_path_of_windows_is_understood(tmp_path):
    made = output(tmp_path)
    convert_labelme(write_labelme(tmp_path, picture="..\\images\\a.jpg"), tmp_path / "images", CLASSES, made)
    assert list(truth_of(made.json, made.png)) == ["a.jpg"]


def test_hidden_files_are_left_out(tmp_path):
    """Archives made on a Mac have a ._a.json beside each a.json."""
    folder, made = write_labelme(tmp_path), output(tmp_path)
    (folder / "._a.json").write_bytes(b"\0\5\x16\7")
    convert_labelme(folder, tmp_path / "images", CLASSES, made)
    assert list(truth_of(made.json, made.png)) == ["a.jpg"]


def test_labelme_circle_has_its_area(tmp_path):
    circle = {"label": "cat", "points": [[60, 50], [60, 80]], "group_id": None, "shape_type": "circle"}
    made = output(tmp_path)
    folder = write_labelme(tmp_path, [circle], imageHeight=100, imageWidth=120)
    convert_labelme(folder, tmp_path / "images", CLASSES, made)
    (segment,) = json.loads(made.json.read_text())["annotations"][0]["segments_info"]
    assert segment["area"] == pytest.approx(np.pi * 30**2, rel=0.01)
    assert segment["bbox"] == pytest.approx([30, 20, 60, 60], abs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": [box("dog", 1, 1, 2, 2)]}, "label 'dog', which is none of cat, grass, sky"),
        ({"shapes": [box("cat", 1, 1, 2, 2, shape_type="line")]}, "shape 0 .cat.: a line of 4 points"),
        ({"shapes": [{"label": "cat", "points": [[1, 1], [2, 2]]}]}, "a polygon of 2 points"),
        ({"imageHeight": None}, "lacks imageHeight"),
        ({"imageHeight": "12"}, "of another form are imageHeight"),
        ({"shapes": {}}, "of another form are shapes"),
        ({"shapes": ["cat"]}, "of another form are shape 0"),
        ({"shapes": [box("cat", 1, 1, 2, 2, group_id=[])]}, "of another form are shape 0"),
        ({"picture": "../../a.jpg"}, "leads out of the folder"),
        ({"picture": "/etc/a.jpg"}, "leads out of the folder"),
    ],
)
def test_wrong_labelme_is_refused(tmp_path, changes, message):
    made = output(tmp_path)
    with pytest.raises(ValueError, match=message):
        convert_labelme(write_labelme(tmp_path, **changes), tmp_path / "images", CLASSES, made)
    assert not made.json.exists()
    assert not made.png.exists()


def test_labelme_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        convert_labelme(tmp_path / "absent", tmp_path, CLASSES, output(tmp_path))


# --- what all share


def test_files_are_never_replaced(scenes, tmp_path):
    folder = write_labelme(tmp_path)
    made = output(tmp_path)
    for path in (made.json, made.png):
        path.mkdir()
        with pytest.raises(ValueError, match="exists"):
            convert_labelme(folder, tmp_path / "images", CLASSES, made)
        path.rmdir()
    for json_path in (made.png / "new.json", made.png, tmp_path / "images/../new_png/new.json", tmp_path):
        nested = type(made)(json_path, made.png)
        with pytest.raises(ValueError, match=r"lie in each other|exists"):
            convert_labelme(folder, tmp_path / "images", CLASSES, nested)
    assert not made.png.exists()


def test_classes_of_one_name_are_refused(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"categories": [*CLASSES, {"id": 9, "name": "cat", "isthing": 0}]}))
    with pytest.raises(ValueError, match="several categories called cat"):
        read_classes(path)
