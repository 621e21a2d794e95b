from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from PIL import Image

from panoptic_segformer.architectures import ARCHITECTURES
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference import prediction
from panoptic_segformer.inference.prediction import input_files, output_files, predict_files, without_instances

CATEGORIES = Categories((0,), (1,), ("person",), ("sky",), ((200, 0, 0),), ((0, 0, 200),))


class FakePredictor:
    """Takes the left half of every picture for a person; remembers what it was given."""

    def __init__(self):
        self.images = []

    def __call__(self, image):
        self.images.append(image.copy())
        ids = torch.zeros(image.shape[:2], dtype=torch.int32)
        ids[:, : max(1, image.shape[1] // 2)] = 1
        info = [{"id": 1, "category_id": 0, "isthing": True, "score": 0.9, "area": int((ids == 1).sum())}]
        return {"panoptic_seg": (ids, info)}


def save(path, size=(40, 30), color=(10, 20, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path, **options)
    return path


def test_input_files_folder_takes_its_pictures_in_order(tmp_path):
    b, a = save(tmp_path / "b.jpg"), save(tmp_path / "a.PNG")
    save(tmp_path / "sub" / "c.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._b.jpg").write_bytes(b"left by another system")
    (tmp_path / "folder.png").mkdir()
    assert input_files([str(tmp_path)]) == [a, b]


def test_input_files_glob_and_file_mix_without_doubles(tmp_path):
    paths = [save(tmp_path / name) for name in ("a1.png", "a2.png", "z.png")]
    (tmp_path / "a3.txt").write_text("no picture")
    found = input_files([tmp_path / "z.png", str(tmp_path / "a*"), tmp_path])
    assert found == [paths[2], paths[0], paths[1]]


def test_input_files_recursive_glob_goes_into_folders(tmp_path):
    deep = save(tmp_path / "x" / "y" / "deep.png")
    assert input_files([str(tmp_path / "**" / "*.png")]) == [deep]


def test_input_files_name_with_brackets_is_a_name(tmp_path):
    path = save(tmp_path / "scan[1].png")
    assert input_files([str(path)]) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.jpg", r"absent\.jpg does not exist"),
        ("", "has no pictures"),
        ("*.jpg", r"no picture matches .*\*\.jpg"),
    ],
)
def test_input_files_nothing_found_names_the_input(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(FileNotFoundError, match=message):
        input_files([str(tmp_path / name)])


def test_output_files_have_the_stem_of_their_input(tmp_path):
    files = [tmp_path / name for name in ("a.jpg", "b.JPEG", "c.png", "d.webp")]
    names = [path.name for path in output_files(files, tmp_path / "out")]
    assert names == ["a.jpg", "b.jpg", "c.png", "d.png"]


def test_output_files_equal_stems_do_not_meet(tmp_path):
    names = ["x/cat.jpg", "y/cat.jpg", "z/x/cat.jpg", "x/Cat.png", "x/dog.jpg", "x_cat_2.jpg"]
    outputs = output_files([tmp_path / name for name in names], tmp_path / "out")
    assert [path.stem for path in outputs[:2]] == ["x_cat", "y_cat"]
    assert outputs[4].name == "dog.jpg"
    assert len({path.stem.lower() for path in outputs}) == len(names)


def test_output_files_never_replace_an_input(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png would replace it: choose another folder"):
        output_files([tmp_path / "a.png"], tmp_path)
    assert output_files([tmp_path / "a.webp"], tmp_path) == [tmp_path / "a.png"]


def test_predict_files_gives_bgr_and_writes_rgb_overlays(tmp_path):
    predictor, file = FakePredictor(), save(tmp_path / "in" / "a.png", (640, 480), (10, 20, 30))
    assert predict_files(predictor, [file], tmp_path / "out" / "deep", CATEGORIES) == []
    assert predictor.images[0].shape == (480, 640, 3)
    assert (predictor.images[0] == (30, 20, 10)).all()
    overlay = np.asarray(Image.open(tmp_path / "out" / "deep" / "a.png"))
    assert overlay.shape[1] == 640
    assert (overlay[470, 630] == (10, 20, 30)).all()
    assert overlay[470, 10, 0] > 100, "the person is red"


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("grey.png", "L", {}),
        ("grey.jpg", "L", {}),
        ("transparent.png", "RGBA", {}),
        ("palette.png", "P", {}),
        ("print.jpg", "CMYK", {}),
    ],
)
def test_predict_files_reads_every_kind_of_picture_as_colour(tmp_path, name, mode, options):
    predictor, file = FakePredictor(), save(tmp_path / name, mode=mode, **options)
    assert predict_files(predictor, [file], tmp_path / "out", CATEGORIES) == []
    assert predictor.images[0].shape == (30, 40, 3)
    assert predictor.images[0].dtype == np.uint8


def test_predict_files_single_pixel_picture(tmp_path):
    file = save(tmp_path / "dot.png", size=(1, 1))
    assert predict_files(FakePredictor(), [file], tmp_path / "out", CATEGORIES) == []
    assert Image.open(tmp_path / "out" / "dot.png").width >= 200


def test_predict_files_turns_the_picture_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees.
    predictor, file = FakePredictor(), save(tmp_path / "turned.jpg", size=(40, 30), exif=exif)
    predict_files(predictor, [file], tmp_path / "out", CATEGORIES)
    assert predictor.images[0].shape == (40, 30, 3)


def test_predict_files_unreadable_pictures_are_named_and_the_rest_goes_on(tmp_path, caplog):
    good = [save(tmp_path / name) for name in ("a.png", "z.png")]
    empty, text, half = (tmp_path / name for name in ("empty.jpg", "text.png", "half.jpg"))
    empty.write_bytes(b"")
    text.write_text("not a picture")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(half)
    half.write_bytes(half.read_bytes()[:1500])
    with caplog.at_level(logging.ERROR):
        failed = predict_files(FakePredictor(), [good[0], empty, text, half, good[1]], tmp_path / "out", CATEGORIES)
    assert failed == [empty, text, half]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "z.png"]
    for path in failed:
        assert str(path) in caplog.text


def test_predict_files_names_a_picture_that_the_predictor_refuses_and_the_rest_goes_on(tmp_path, caplog):
    class Choosy(FakePredictor):
        def __call__(self, image):
            if max(image.shape) > 100 * min(image.shape[:2]):
                raise ValueError(f"shape {image.shape} is too thin")
            return super().__call__(image)

    files = [save(tmp_path / name, size) for name, size in (("a.png", (9, 9)), ("b.png", (3000, 1)), ("c.png", (9, 9)))]
    with caplog.at_level(logging.ERROR):
        assert predict_files(Choosy(), files, tmp_path / "out", CATEGORIES) == [files[1]]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "c.png"]
    assert f"{files[1]} is left out: shape (1, 3000, 3) is too thin" in caplog.text


def test_predict_files_leaves_out_a_picture_of_extreme_size(tmp_path, monkeypatch):
    files = [save(tmp_path / "huge.png", (50, 50)), save(tmp_path / "small.png", (9, 9))]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert predict_files(FakePredictor(), files, tmp_path / "out", CATEGORIES) == [files[0]]
    assert os.listdir(tmp_path / "out") == ["small.png"]


def test_predict_files_equal_stems_from_two_folders_are_both_kept(tmp_path):
    files = [save(tmp_path / "x" / "a.png", color=(250, 0, 0)), save(tmp_path / "y" / "a.png", color=(0, 250, 0))]
    predict_files(FakePredictor(), files, tmp_path / "out", CATEGORIES)
    assert sorted(os.listdir(tmp_path / "out")) == ["x_a.png", "y_a.png"]


def test_predict_files_crash_while_writing_keeps_the_old_overlay_alone(tmp_path, monkeypatch):
    file = save(tmp_path / "a.png")
    predict_files(FakePredictor(), [file], tmp_path / "out", CATEGORIES)
    before = (tmp_path / "out" / "a.png").read_bytes()

    def half_a_write(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(prediction.Image.Image, "save", half_a_write)
    with pytest.raises(OSError, match="disk full"):
        predict_files(FakePredictor(), [file], tmp_path / "out", CATEGORIES)
    assert os.listdir(tmp_path / "out") == ["a.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() == before


def test_predict_files_without_panoptic_result_says_which_key_to_set(tmp_path):
    with pytest.raises(ValueError, match="PANOPTIC_ON"):
        predict_files(lambda image: {"instances": []}, [save(tmp_path / "a.png")], tmp_path / "out", CATEGORIES)


def test_predict_files_draws_a_real_picture(shared_dir, tmp_path):
    file = min((shared_dir / "data" / "coco_val" / "images").iterdir())
    assert predict_files(FakePredictor(), [file], tmp_path, CATEGORIES) == []
    width, height = Image.open(file).size
    overlay = Image.open(tmp_path / file.name)
    assert overlay.width == width
    assert overlay.height > height


@pytest.mark.parametrize(
    ("name", "node"),
    [("PanopticSegFormer", "PANOPTIC_SEGFORMER"), ("PSFMaskFormer", "MASK_FORMER"), ("PSFDetrPanoptic", "DETR")],
)
def test_instances_are_switched_off_for_every_model_that_can(name, node):
    cfg = get_cfg()
    ARCHITECTURES[name].add_config(cfg)
    cfg.MODEL[node].TEST.INSTANCE_ON = True
    assert not without_instances(cfg).MODEL[node].TEST.INSTANCE_ON
    assert cfg.MODEL[node].TEST.INSTANCE_ON


def test_models_that_always_give_instances_stay_as_they_are():
    cfg = get_cfg()
    ARCHITECTURES["PSFPanopticFPN"].add_config(cfg)
    assert without_instances(cfg) == cfg
