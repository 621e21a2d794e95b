"""Segments of Detectron2's built-in forms; our own form is tested with the mapper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image
from pycocotools import mask as rle

from panoptic_segformer.data.segments import read_segments


@pytest.fixture
def separated(tmp_path: Path) -> dict:
    """Stuff 1 left, stuff 53 right, unlabelled below; a big and a small instance that overlap, and a crowd."""
    semantic = np.ones((10, 12), dtype=np.uint8)
    semantic[:, 6:] = 53
    semantic[9:] = 255
    semantic[0:2] = 0
    Image.fromarray(semantic).save(tmp_path / "semantic.png")
    small = np.zeros((10, 12), dtype=np.uint8, order="F")
    small[4:6, 4:6] = 1
    crowd = np.zeros((10, 12), dtype=np.uint8, order="F")
    crowd[0:2] = 1
    return {
        "file_name": "some.jpg",
        "sem_seg_file_name": str(tmp_path / "semantic.png"),
        "annotations": [
            {"category_id": 7, "iscrowd": 0, "segmentation": rle.encode(small)},
            {"category_id": 79, "iscrowd": 0, "segmentation": [[2, 3, 10, 3, 10, 8, 2, 8]]},
            {"category_id": 0, "iscrowd": 1, "segmentation": rle.encode(crowd)},
        ],
    }


def test_read_segments_paints_small_instances_over_large_ones_over_stuff(separated: dict) -> None:
    colors, segments = read_segments(separated, (10, 12), ())
    ids = rgb2id(colors)
    masks = {(s.category_id, s.isthing): ids == s.id for s in segments}
    assert set(masks) == {(1, False), (53, False), (7, True), (79, True)}
    assert len({s.id for s in segments}) == 4
    expected_small = np.zeros((10, 12), dtype=bool)
    expected_small[4:6, 4:6] = True
    np.testing.assert_array_equal(masks[7, True], expected_small)
    expected_large = np.zeros((10, 12), dtype=bool)
    expected_large[3:8, 2:10] = True
    np.testing.assert_array_equal(masks[79, True], expected_large & ~expected_small)
    assert masks[1, False].sum() == 7 * 6 - 5 * 4
    # Crowd, unlabelled pixels and things without instance are void.
    assert (ids[0:2] == 0).all()
    assert (ids[9:] == 0).all()


def test_read_segments_refuses_a_semantic_png_of_another_size(separated: dict) -> None:
    with pytest.raises(ValueError, match=r"semantic\.png has \(height, width\) \(10, 12\), its picture \(10, 13\)"):
        read_segments(separated, (10, 13), ())


def test_read_segments_refuses_entries_without_panoptic_truth() -> None:
    with pytest.raises(ValueError, match=r"some\.jpg has no panoptic truth.*'annotations'"):
        read_segments({"file_name": "some.jpg", "annotations": []}, (4, 4), ())


def test_read_segments_derives_what_is_a_thing_where_the_entry_does_not_say(tmp_path: Path) -> None:
    """Detectron2's Cityscapes has contiguous ids but no `isthing`."""
    ids = np.repeat([[7000, 24001, 26]], 4, axis=0)
    Image.fromarray(id2rgb(ids)).save(tmp_path / "panoptic.png")
    infos = [
        {"id": 7000, "category_id": 0, "iscrowd": 0},
        {"id": 24001, "category_id": 11, "iscrowd": 0},
        {"id": 26, "category_id": 13, "iscrowd": 1},
    ]
    entry = {"pan_seg_file_name": str(tmp_path / "panoptic.png"), "segments_info": infos}
    colors, segments = read_segments(entry, (4, 3), range(11, 19))
    assert segments == [(7000, 0, False), (24001, 11, True)]
    np.testing.assert_array_equal(rgb2id(colors), ids)
