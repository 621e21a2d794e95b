"""Decoded pictures come back as they were, are made anew when a file changes, and a full disk costs time only."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from panoptic_segformer.data.cache import DecodedCache
from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.data.mapper import PanopticDatasetMapper
from panoptic_segformer.data.segments import Segment
from panoptic_segformer.seeding import seeded

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
SEGMENTS = [Segment(7, 3, True), Segment(9, 0, False)]


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, str]:
    names = {"file_name": tmp_path / "a.jpg", "pan_seg_file_name": tmp_path / "a.png"}
    for path in names.values():
        path.write_bytes(b"first")
    return {key: str(path) for key, path in names.items()}


class Decoding:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self):
        self.times += 1
        return IMAGE, IMAGE[::-1], SEGMENTS


def assert_decoded(found) -> None:
    image, colors, segments = found
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(colors, IMAGE[::-1])
    assert segments == SEGMENTS
    assert all(type(segment.isthing) is bool for segment in segments)


def test_second_time_nothing_is_decoded(tmp_path: Path, entry) -> None:
    decode = Decoding()
    for _ in range(2):  # two processes have two caches of one folder
        assert_decoded(DecodedCache(tmp_path / "cache", "RGB").get(entry, decode))
    assert decode.times == 1


@pytest.mark.parametrize("change", ["file", "json", "format"])
def test_change_is_noticed(tmp_path: Path, entry, change: str) -> None:
    decode = Decoding()
    DecodedCache(tmp_path / "cache", "RGB").get(entry, decode)
    if change == "file":
        os.utime(entry["pan_seg_file_name"], (1, 1))
    changed = {**entry, "segments_info": [{"id": 1}]} if change == "json" else entry
    DecodedCache(tmp_path / "cache", "BGR" if change == "format" else "RGB").get(changed, decode)
    assert decode.times == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no zip at all"])
def test_damaged_file_is_made_anew(tmp_path: Path, entry, content: bytes) -> None:
    cache, decode = DecodedCache(tmp_path / "cache", "RGB"), Decoding()
    cache.get(entry, decode)
    (path,) = (tmp_path / "cache").rglob("*.npz")
    path.write_bytes(content)
    for _ in range(2):
        assert_decoded(cache.get(entry, decode))
    assert decode.times == 2


def test_folder_that_cannot_be_written_is_said_once(tmp_path: Path, entry, caplog) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    cache, decode = DecodedCache(tmp_path / "cache", "RGB"), Decoding()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_decoded(cache.get(entry, decode))
    assert [record.message.startswith("decoded pictures are not kept") for record in caplog.records] == [True]


def test_training_examples_are_the_same(tiny_config, tmp_path: Path) -> None:
    plain, cached = tiny_config(), tiny_config("DATALOADER.CACHE_DIR", str(tmp_path / "cache"))
    register_datasets(plain)
    for entry in DatasetCatalog.get("synthetic_train")[:2]:
        with seeded(1):
            expected = PanopticDatasetMapper(plain, is_train=True)(entry)
        for _ in range(2):
            with seeded(1):
                found = PanopticDatasetMapper(cached, is_train=True)(entry)
            assert torch.equal(found["image"], expected["image"])
            assert torch.equal(found["instances"].gt_masks.tensor, expected["instances"].gt_masks.tensor)
            assert torch.equal(found["stuff"].gt_classes, expected["stuff"].gt_classes)
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 2
