from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.prediction import Drawing, DrawingSaver, predict_files
from panoptic_segformer.inference.result import PanopticResult

CATEGORIES = Categories((0,), (1,), ("person",), ("sky",), ((200, 0, 0),), ((0, 0, 200),))


class FakePredictor:
    """Takes the left half of every picture for a person; remembers what it was given."""

    def __init__(self):
        self.images, self.batches = [], []

    def __call__(self, images):
        self.batches.append(len(images))
        return [self.predict(image) for image in images]

    def predict(self, image):
        self.images.append(image.copy())
        ids = np.zeros(image.shape[:2], np.int32)
        ids[:, : max(1, image.shape[1] // 2)] = 1
        info = [{"id": 1, "category_id": 0, "isthing": True, "score": 0.9, "area": int(ids.sum())}]
        return PanopticResult.from_output(image, {"panoptic_seg": (ids, info)}, CATEGORIES)


def draw(predictor, files, folder, batch_size=1):
    return list(predict_files(predictor, files, [DrawingSaver(Drawing("overlay", folder), files)], batch_size))


def save(path, size=(40, 30), color=(10, 20, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path, **options)
    return path


def test_predict_files_gives_rgb_and_writes_overlays(tmp_path):
    predictor, file = FakePredictor(), save(tmp_path / "in" / "a.png", (640, 480), (10, 20, 30))
    assert draw(predictor, [file], tmp_path / "out" / "deep") == []
    assert predictor.images[0].shape == (480, 640, 3)
    assert (predictor.images[0] == (10, 20, 30)).all()
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
    assert draw(predictor, [file], tmp_path / "out") == []
    assert predictor.images[0].shape == (30, 40, 3)
    assert predictor.images[0].dtype == np.uint8


def test_predict_files_single_pixel_picture(tmp_path):
    file = save(tmp_path / "dot.png", size=(1, 1))
    assert draw(FakePredictor(), [file], tmp_path / "out") == []
    assert Image.open(tmp_path / "out" / "dot.png").width >= 200


def test_predict_files_turns_the_picture_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees.
    predictor, file = FakePredictor(), save(tmp_path / "turned.jpg", size=(40, 30), exif=exif)
    draw(predictor, [file], tmp_path / "out")
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
        failed = draw(FakePredictor(), [good[0], empty, text, half, good[1]], tmp_path / "out")
    assert failed == [empty, text, half]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "z.png"]
    for path in failed:
        assert str(path) in caplog.text


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_predict_files_names_a_picture_that_the_predictor_refuses_and_the_rest_goes_on(tmp_path, caplog, batch_size):
    class Choosy(FakePredictor):
        def predict(self, image):
            if max(image.shape) > 100 * min(image.shape[:2]):
                raise ValueError(f"shape {image.shape} is too thin")
            return super().predict(image)

    files = [save(tmp_path / name, size) for name, size in (("a.png", (9, 9)), ("b.png", (3000, 1)), ("c.png", (9, 9)))]
    with caplog.at_level(logging.ERROR):
        assert draw(Choosy(), files, tmp_path / "out", batch_size) == [files[1]]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "c.png"]
    assert f"{files[1]} is left out: shape (1, 3000, 3) is too thin" in caplog.text


def test_predict_files_leaves_out_a_picture_of_extreme_size(tmp_path, monkeypatch):
    files = [save(tmp_path / "huge.png", (50, 50)), save(tmp_path / "small.png", (9, 9))]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert draw(FakePredictor(), files, tmp_path / "out") == [files[0]]
    assert os.listdir(tmp_path / "out") == ["small.png"]


def test_predict_files_equal_stems_from_two_folders_are_both_kept(tmp_path):
    files = [save(tmp_path / "x" / "a.png", color=(250, 0, 0)), save(tmp_path / "y" / "a.png", color=(0, 250, 0))]
    draw(FakePredictor(), files, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["x_a.png", "y_a.png"]


def test_predict_files_crash_while_writing_keeps_the_old_overlay_alone(tmp_path, monkeypatch):
    file = save(tmp_path / "a.png")
    draw(FakePredictor(), [file], tmp_path / "out")
    before = (tmp_path / "out" / "a.png").read_bytes()

    def half_a_write(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half_a_write)
    with pytest.raises(OSError, match="disk full"):
        draw(FakePredictor(), [file], tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["a.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() == before


def test_predict_files_reads_greys_of_16_bits_in_their_full_range(tmp_path):
    levels = np.linspace(0, 65535, 12).reshape(3, 4).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    predictor = FakePredictor()
    assert draw(predictor, [tmp_path / "deep.png"], tmp_path / "out") == []
    assert (predictor.images[0] == (levels >> 8)[..., None]).all()


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 5), (2, [2, 2, 1]), (9, [5])])
def test_predict_files_runs_batches_and_keeps_the_order(tmp_path, batch_size, batches):
    files = [save(tmp_path / f"{name}.png", color=(10 * name, 0, 0)) for name in range(5)]
    predictor, seen = FakePredictor(), []

    class Recorder:
        def add(self, file, name, result):
            seen.append((file, name, int(result.image[0, 0, 0])))

    assert predict_files(predictor, files, [Recorder()], batch_size) == {}
    assert seen == [(file, str(number), 10 * number) for number, file in enumerate(files)]
    assert predictor.batches == batches


def test_predict_files_gives_all_savers_the_same_result(tmp_path):
    files = [save(tmp_path / "a.png", (640, 480))]
    drawings = [Drawing(style, tmp_path / style, legend=False) for style in ("overlay", "contours", "side-by-side")]
    assert predict_files(FakePredictor(), files, [DrawingSaver(drawing, files) for drawing in drawings]) == {}
    sizes = [Image.open(drawing.folder / "a.png").size for drawing in drawings]
    assert sizes[:2] == [(640, 480)] * 2
    assert sizes[2][0] > 2 * 640


def test_drawing_saver_never_replaces_a_picture(tmp_path):
    file = save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="would replace it"):
        DrawingSaver(Drawing("overlay", tmp_path), [file])


def test_predict_files_draws_a_real_picture(shared_dir, tmp_path):
    file = min((shared_dir / "data" / "coco_val" / "images").iterdir())
    assert draw(FakePredictor(), [file], tmp_path) == []
    width, height = Image.open(file).size
    overlay = Image.open(tmp_path / file.name)
    assert overlay.width == width
    assert overlay.height > height


@pytest.mark.parametrize("batch_size", [1, 3])
def test_predict_files_leaves_out_a_picture_for_which_memory_is_too_small(tmp_path, batch_size):
    class Small(FakePredictor):
        def predict(self, image):
            if image.shape[0] > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().predict(image)

    files = [save(tmp_path / name, size) for name, size in (("a.png", (9, 9)), ("b.png", (9, 30)), ("c.png", (9, 9)))]
    saver = DrawingSaver(Drawing("overlay", tmp_path / "out"), files)
    assert predict_files(Small(), files, [saver], batch_size) == {files[1]: "CUDA out of memory"}
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "c.png"]
