from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.result import DRAWING_STYLES, PanopticResult
from panoptic_segformer.visualization import draw_panoptic

CATEGORIES = Categories((0, 2), (1,), ("person", "car"), ("sky",), ((200, 0, 0), (0, 9, 0)), ((0, 0, 200),))
INFO = [
    {"id": 1, "category_id": 2, "isthing": True, "score": 1.25, "area": 200},
    {"id": 2, "category_id": 1, "isthing": False, "score": 0.5, "area": 640},
]


@pytest.fixture
def result():
    ids = torch.zeros(40, 64, dtype=torch.int32)
    ids[:10] = 2
    ids[20:30, 5:25] = 1
    return PanopticResult.from_output(np.full((40, 64, 3), 100, np.uint8), {"panoptic_seg": (ids, INFO)}, CATEGORIES)


def test_segments_have_name_kind_score_area_box_and_mask(result):
    car, sky = result.segments
    assert (car.id, car.name, car.category_id, car.isthing, car.score, car.area) == (1, "car", 2, True, 1.25, 200)
    assert car.box == (5, 20, 25, 30)
    assert car.mask.dtype == bool
    assert car.mask.sum() == car.mask[20:30, 5:25].sum() == 200
    assert (sky.name, sky.isthing, sky.box) == ("sky", False, (0, 0, 64, 10))
    assert result.segment_ids.dtype == np.int32
    assert result.segments_info == INFO


def test_records_without_a_kind_get_it_from_the_classes():
    ids = np.ones((4, 4), np.int64)
    records = [{"id": 1, "category_id": 1, "score": 0.5, "area": 16}]
    result = PanopticResult.from_output(np.zeros((4, 4, 3), np.uint8), {"panoptic_seg": (ids, records)}, CATEGORIES)
    assert result.segments[0].isthing is False


def test_result_without_segments():
    empty = {"panoptic_seg": (np.zeros((4, 4), np.int32), [])}
    result = PanopticResult.from_output(np.zeros((4, 4, 3), np.uint8), empty, CATEGORIES)
    assert result.segments == []
    assert result.overlay(legend=False).shape == (4, 4, 3)


def test_output_without_panoptic_seg_says_what_to_switch_on():
    with pytest.raises(ValueError, match=r"returns \['instances'\] but no panoptic_seg.*COMBINE.ENABLE True"):
        PanopticResult.from_output(np.zeros((4, 4, 3), np.uint8), {"instances": []}, CATEGORIES)


def test_overlay_is_the_usual_drawing(result):
    assert (result.overlay() == draw_panoptic(result.image, result.segment_ids, INFO, CATEGORIES)).all()


@pytest.mark.parametrize("style", ["overlay", "contours", "boxes"])
def test_overlay_without_legend_has_the_pictures_size(result, style):
    drawing = result.overlay(style, labels=False, legend=False)
    assert drawing.shape == (40, 64, 3)
    assert (drawing != 100).any()
    assert (result.image == 100).all()


def test_side_by_side_has_the_picture_on_the_left(result):
    drawing = result.overlay("side-by-side", legend=False)
    assert drawing.shape[1] > 2 * 64
    half = drawing.shape[1] // 2
    assert (drawing[-30:-10, 10 : half - 10] == 100).all()
    assert not (drawing[-30:-10, half + 10 : -10] == 100).all()


def test_unknown_style_names_those_there_are(result):
    with pytest.raises(ValueError, match=f"no style 'sketch': choose one of {', '.join(DRAWING_STYLES)}"):
        result.overlay("sketch")


def test_save_makes_folders_and_writes_the_format_of_the_ending(result, tmp_path):
    for name, form in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.webp", "WEBP")):
        result.save(tmp_path / "deep" / name, "contours", legend=False)
        with Image.open(tmp_path / "deep" / name) as written:
            assert (written.format, written.size) == (form, (64, 40))
    for name, ending in (
        ("a.xyz", r"\.xyz"),
        ("a", ""),
        ("a.psd", r"\.psd"),
    ):  # Pillow reads the last, but writes none.
        with pytest.raises(ValueError, match=f"{name} ends in '{ending}', which is no format.*try .png"):
            result.save(tmp_path / "deep" / name)
    assert sorted(os.listdir(tmp_path / "deep")) == ["a.png", "b.jpg", "c.webp"]
