"""What the findings say, damage of special kinds, processes, statistics."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from injected_scenes import NEW_ID, OF_DATASETS, OF_PICTURES, exif, write_text
from PIL import Image

from panoptic_segformer.data import parallel
from panoptic_segformer.data.datasets import PanopticPaths
from panoptic_segformer.data.parallel import parallel_map
from panoptic_segformer.data.validation import examining, validate
from panoptic_segformer.data.validation.report import report_text
from panoptic_segformer.data.validation.statistics import collect, plot_statistics


def lines(scenes, name, k=0):
    (OF_PICTURES[name](scenes, k) if name in OF_PICTURES else OF_DATASETS[name](scenes))
    return [str(finding) for finding in scenes.validate().tally.examples[name]]


def test_findings_name_file_and_id_with_the_value_seen_and_expected(scenes):
    stuff, sky = scenes.stuff(0), scenes.stuff(0)["area"]
    assert lines(scenes, "area-wrong") == [f"000001.png, segment {stuff['id']}: area {sky + 1}, expected {sky}"]
    assert lines(scenes, "size-in-json", 1) == [
        "000002.jpg: 7 x 96 (height x width), expected 64 x 96 (height x width)"
    ]
    assert lines(scenes, "id-not-in-json", 2) == [
        f"000003.png, segment {NEW_ID}: 1 pixels, expected an id of segments_info"
    ]
    assert lines(scenes, "picture-turned-sideways", 3) == [
        "000004.jpg: json and file 64 x 96 (height x width), EXIF orientation 6, expected 96 x 64 (height x width)"
    ]
    assert lines(scenes, "value-wrong", 4)[0].endswith("id: '7', expected 1 to 16777215")


def test_missing_picture_of_another_case_is_hinted_at(scenes):
    scenes.picture(0).rename(scenes.root / "images/000001.JPG")
    assert "000001.jpg: not there, but 000001.JPG is" in report_text("mine", scenes.validate())


@pytest.mark.parametrize("num_bytes", [0, 2, 10, 40, 200])
def test_file_that_is_cut_off_anywhere_is_incomplete(scenes, num_bytes):
    for path in (scenes.picture(0), scenes.png(1)):
        path.write_bytes(path.read_bytes()[:num_bytes])
    assert scenes.counts() == {"picture-incomplete": 1, "png-incomplete": 1}


def test_jpeg_that_ends_in_reserved_space_is_incomplete(scenes):
    data = scenes.picture(0).read_bytes()
    scenes.picture(0).write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    Image.open(scenes.picture(0)).convert("RGB")  # Pillow takes the rest for grey
    assert scenes.counts() == {"picture-incomplete": 1}


def test_space_behind_the_end_of_a_picture_is_no_fault(scenes):
    """Some cameras fill their files up."""
    for path in (scenes.picture(0), scenes.png(1)):
        path.write_bytes(path.read_bytes() + bytes(2000))
    assert scenes.counts() == {}


@pytest.mark.parametrize("orientation", [0, 9])
def test_orientation_without_meaning_is_no_rotation(scenes, orientation):
    scenes.save_picture(0, lambda picture: picture, format="JPEG", exif=exif(orientation))
    assert scenes.counts() == {}


def test_json_alone_is_at_fault_where_the_png_fits_the_turned_picture(scenes):
    scenes.save_picture(0, lambda picture: picture, format="JPEG", exif=exif(6))
    scenes.write_ids(0, np.rot90(scenes.ids(0), -1))
    counts = scenes.counts()
    assert (counts["size-in-json"], counts["picture-turned"], counts["picture-turned-sideways"]) == (1, 1, 0)


def test_picture_that_is_too_large_is_not_called_damaged(scenes, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert scenes.counts() == {"picture-unreadable": 6, "png-unreadable": 6}


def test_file_that_may_not_be_opened_is_unreadable(scenes, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("not yours")

    monkeypatch.setattr("panoptic_segformer.data.validation.examining.Image.open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    picture, _ = examining._read(str(scenes.root / "images"), scenes.image(0)["file_name"])
    assert (picture.state, picture.problem) == (examining.FileState.UNREADABLE, "not yours")


def test_names_that_are_no_names_are_reported(scenes):
    scenes.image(0)["file_name"] = 300 * "x"  # longer than any file system has it
    scenes.image(1)["file_name"] = "\udcff.jpg"
    found = scenes.validate()
    assert found.tally.counts["picture-missing"] == 2
    assert b"\\udcff.jpg: not there" in report_text("mine", found).encode()


def test_all_three_sizes_differ_gives_both_faults(scenes):
    OF_PICTURES["size-in-json"](scenes, 0)
    OF_PICTURES["size-of-png"](scenes, 0)
    assert scenes.counts() == {"size-in-json": 1, "size-of-png": 1}


def test_sizes_are_compared_with_the_json_where_the_picture_is_missing(scenes):
    scenes.picture(0).unlink()
    OF_PICTURES["size-of-png"](scenes, 0)
    assert scenes.counts() == {"picture-missing": 1, "size-of-png": 1}


def test_examples_are_limited_and_counts_are_not(scenes):
    for k in range(6):
        OF_PICTURES["area-wrong"](scenes, k)
    found = scenes.validate(num_examples=2)
    assert found.tally.counts == {"area-wrong": 6}
    assert len(found.tally.examples["area-wrong"]) == 2
    assert "... and 4 more" in report_text("mine", found)


def test_processes_find_the_same_in_the_same_order(scenes):
    for k, name in enumerate(("picture-missing", "area-wrong", "area-wrong", "png-incomplete")):
        OF_PICTURES[name](scenes, k)
    alone, together = scenes.validate(), scenes.validate(workers=2)
    assert alone.tally == together.tally
    assert alone.measured == together.measured


def test_process_that_dies_is_said_in_plain_words():
    with pytest.raises(OSError, match="one of 2 processes died"):
        list(parallel_map(os._exit, [1], 2))


def test_default_workers_are_not_more_than_the_cores(monkeypatch):
    assert 1 <= parallel.default_workers() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    assert parallel.default_workers() == 16


@pytest.mark.parametrize("missing", ["image_root", "panoptic_json", "panoptic_root"])
def test_path_that_does_not_exist_is_refused(scenes, missing, tmp_path):
    scenes.save_json()
    paths = PanopticPaths(**{**vars(scenes.paths), missing: str(tmp_path / "absent")})
    with pytest.raises(FileNotFoundError, match="absent"):
        validate(paths)


def test_statistics_count_what_the_files_say(scenes):
    OF_PICTURES["area-wrong"](scenes, 0)
    counts = collect(scenes.validate())
    masks = [(s["category_id"], scenes.ids(k) == s["id"]) for k in range(6) for s in scenes.segments(k)]
    for category in scenes.content["categories"]:
        own = [mask for id_, mask in masks if id_ == category["id"]]
        assert counts.segments[category["id"]] == len(own)
        assert counts.pixels[category["id"]] == sum(mask.sum() for mask in own)
    assert counts.sizes == {(64, 96): 6}
    assert sorted(counts.thing_areas) == sorted(mask.sum() for id_, mask in masks if id_ <= 6)
    assert len(counts.stuff_areas) == len(masks) - len(counts.thing_areas)
    things = [sum(s["category_id"] <= 6 for s in scenes.segments(k)) for k in range(6)]
    assert sorted(counts.things.elements()) == sorted(things)


def test_statistics_leave_out_what_cannot_be_read(scenes):
    scenes.picture(0).unlink()
    scenes.png(1).unlink()
    scenes.stuff(2)["category_id"] = 555
    counts = collect(scenes.validate())
    assert counts.sizes.total() == 5
    assert counts.things.total() == 5
    assert counts.segments.total() == sum(len(scenes.segments(k)) for k in (0, 2, 3, 4, 5)) - 1


def test_statistics_are_drawn(scenes, tmp_path):
    for k in range(6):  # their histogram has nothing to show
        scenes.picture(k).unlink()
    plot_statistics(scenes.validate(), tmp_path / "statistics.png")
    assert np.asarray(Image.open(tmp_path / "statistics.png").convert("L")).std() > 10


def test_statistics_of_nothing_are_refused(scenes, tmp_path):
    write_text(scenes, "{")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_statistics(scenes.validate(), tmp_path / "statistics.png")
    assert not list(tmp_path.glob("*.png"))
