"""The corruptions of COCO-C: which there are, what they do to a picture, and that they do the same again."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from panoptic_segformer.robustness.corruptions import (
    CORRUPTIONS,
    Corrupt,
    Corruption,
    choose_corruptions,
    corrupt_picture,
)

library = pytest.importorskip("imagecorruptions", reason="needs the extra 'robustness'")

KINDS = [name for names in CORRUPTIONS.values() for name in names]
# Compiles for ten seconds at its first use.
SLOW = "glass_blur"


@pytest.fixture
def picture() -> np.ndarray:
    """Smooth colours, 45x67 pixels."""
    rows, columns = np.mgrid[:45, :67]
    return np.stack([rows * 5, columns * 3, (rows + columns) * 2], axis=-1).astype(np.uint8)


def test_kinds_are_the_sixteen_of_the_paper():
    assert len(KINDS) == len(set(KINDS)) == 16
    assert set(library.get_corruption_names("all")) - set(KINDS) == {"zoom_blur", "elastic_transform", "pixelate"}
    assert set(KINDS) < set(library.get_corruption_names("all"))


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == SLOW)) for name in KINDS])
def test_every_kind_changes_a_picture_in_the_same_way_again(name, severity, picture):
    before = picture.copy()
    np.random.seed(1)  # noqa: NPY002
    first = corrupt_picture(picture, Corruption(name, severity))
    after = np.random.random()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    second = corrupt_picture(picture, Corruption(name, severity))
    assert first.shape == picture.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(picture, before)
    assert np.abs(first.astype(int) - before).mean() > 0.1
    np.random.seed(1)  # noqa: NPY002
    assert np.random.random() == after  # noqa: NPY002  the caller's random numbers go on


def test_pictures_get_noise_of_their_own(picture):
    gray = np.full_like(picture, 128)
    other = gray.copy()
    other[0, 0] = 127
    noise, other_noise = (corrupt_picture(image, Corruption("gaussian_noise", 3)) for image in (gray, other))
    assert (noise != other_noise).mean() > 0.5


def test_noise_has_the_deviation_of_its_severity(picture):
    gray = np.full((200, 200, 3), 128, np.uint8)
    for severity, deviation in ((1, 0.08), (2, 0.12), (3, 0.18)):
        noisy = corrupt_picture(gray, Corruption("gaussian_noise", severity)) / 255
        assert noisy.std() == pytest.approx(deviation, rel=0.03)


def test_contrast_shrinks_towards_the_mean_colour(picture):
    values = picture.astype(np.float64) / 255
    means = values.mean(axis=(0, 1))
    expected = np.clip((values - means) * 0.2 + means, 0, 1) * 255
    np.testing.assert_allclose(corrupt_picture(picture, Corruption("contrast", 3)), expected, atol=1)


def test_order_of_channels_does_not_matter(picture):
    corruption = Corruption("fog", 3)
    rgb = Corrupt(corruption, "RGB").get_transform(picture).apply_image(picture)
    swapped = np.ascontiguousarray(picture[..., ::-1])
    bgr = Corrupt(corruption, "BGR").get_transform(swapped).apply_image(swapped)
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


def test_segments_stay_as_they_are(picture):
    ids = np.arange(picture[..., 0].size).reshape(picture.shape[:2])
    transform = Corrupt(Corruption("snow", 3), "RGB").get_transform(picture)
    np.testing.assert_array_equal(transform.apply_segmentation(ids), ids)


def test_small_pictures_are_refused():
    with pytest.raises(ValueError, match=r"\(31, 40\).*at least 32 pixels"):
        corrupt_picture(np.zeros((31, 40, 3), np.uint8), Corruption("snow", 3))


def test_missing_library_names_the_extra(picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match="robustness"):
        corrupt_picture(picture, Corruption("snow", 3))


def test_all_are_chosen_in_the_order_of_the_table():
    chosen = choose_corruptions(["all"], [5, 1, 5])
    assert [str(corruption) for corruption in chosen[:3]] == ["motion_blur 1", "motion_blur 5", "defocus_blur 1"]
    assert len(chosen) == 32


def test_groups_and_names_are_chosen_once():
    chosen = choose_corruptions(["fog", "noise", "shot_noise"], [3])
    assert [corruption.name for corruption in chosen] == [*CORRUPTIONS["noise"], "fog"]


def test_unknown_names_get_the_nearest_one():
    with pytest.raises(ValueError, match="no corruption 'gausian_blur', did you mean 'gaussian_blur'"):
        choose_corruptions(["gausian_blur"], [3])


@pytest.mark.parametrize("severity", [0, 6])
def test_unknown_severities_are_refused(severity):
    with pytest.raises(ValueError, match=f"severity {severity} does not exist"):
        choose_corruptions(["all"], [3, severity])
