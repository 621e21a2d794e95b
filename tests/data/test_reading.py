"""Reading of id maps and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_segformer.data.reading import (
    check_segments,
    ids_present,
    read_picture,
    read_segment_colors,
    read_segment_ids,
)


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)))
def test_ids_present_equals_numpy(ids: np.ndarray) -> None:
    np.testing.assert_array_equal(ids_present(ids), np.unique(ids))


@given(st.sets(st.integers(1, 2**24 - 1), max_size=6), st.sets(st.integers(1, 2**24 - 1), max_size=6))
def test_check_segments_passes_only_equal_ids(in_png: set[int], in_json: set[int]) -> None:
    ids = np.array([[0, *sorted(in_png)]])
    if in_png == in_json:
        check_segments("some.png", ids, in_json)
        return
    wrong = sorted(in_png - in_json) or sorted(in_json - in_png)
    with pytest.raises(ValueError, match=rf"some\.png .*{wrong[0]}"):
        check_segments("some.png", ids, in_json)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_segment_ids_are_those_of_the_colors(tmp_path: Path, mode: str, orientation: int) -> None:
    rng = np.random.default_rng(orientation)
    shape = {"RGB": (5, 7, 3), "RGBA": (5, 7, 4)}.get(mode, (5, 7))
    image = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    (image.convert("P") if mode == "P" else image).save(tmp_path / "ids.png", exif=exif)
    size = (5, 7) if orientation < 5 else (7, 5)
    ids = read_segment_ids(tmp_path / "ids.png", size)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, rgb2id(read_segment_colors(tmp_path / "ids.png", size)))
    with pytest.raises(ValueError, match=r"ids\.png has \(height, width\)"):
        read_segment_ids(tmp_path / "ids.png", (3, 3))


def test_read_picture_applies_exif_rotation(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[274] = 6  # To be shown turned by a quarter, clockwise.
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "turned.png", "RGB"), np.rot90(pixels, -1))


def test_read_picture_gives_three_channels_for_grey(tmp_path: Path) -> None:
    Image.new("L", (5, 3), 77).save(tmp_path / "grey.png")
    assert (read_picture(tmp_path / "grey.png", "RGB") == np.full((3, 5, 3), 77)).all()


def test_read_picture_keeps_the_range_of_deep_greys_in_colour_alone(tmp_path: Path) -> None:
    levels = np.array([[0, 7, 256, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png", "RGB")[0, :, 0].tolist() == [0, 0, 1, 255]
    # Maps of classes hold small numbers, which mean what they say.
    assert read_picture(tmp_path / "deep.png", "L")[0, :2, 0].tolist() == [0, 7]


@pytest.mark.parametrize("content", [b"", b"no picture", "truncated jpg", "truncated png"])
def test_read_picture_names_an_unreadable_file(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "bad.jpg"
    if isinstance(content, str):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, format=content.split()[1].replace("jpg", "jpeg"))
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"picture .*bad\.jpg cannot be read"):
        read_picture(path, "RGB")


def test_read_picture_names_a_picture_of_extreme_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"huge\.png cannot be read .*decompression bomb"):
        read_picture(tmp_path / "huge.png", "RGB")


def test_read_picture_names_a_file_that_confuses_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def confused(*arguments: object, **options: object) -> None:
        raise TypeError("'NoneType' object is not subscriptable")

    Image.new("RGB", (5, 5)).save(tmp_path / "odd.png")
    monkeypatch.setattr(Image, "open", confused)
    with pytest.raises(ValueError, match=r"odd\.png cannot be read .*NoneType"):
        read_picture(tmp_path / "odd.png", "RGB")


def test_read_picture_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg does not exist"):
        read_picture(tmp_path / "gone.jpg", "RGB")


def test_read_segment_colors_refuses_another_size(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3)).save(tmp_path / "ids.png")
    assert read_segment_colors(tmp_path / "ids.png", (3, 5)).shape == (3, 5, 3)
    with pytest.raises(ValueError, match=r"ids\.png has \(height, width\) \(3, 5\), its picture has \(5, 3\)"):
        read_segment_colors(tmp_path / "ids.png", (5, 3))
