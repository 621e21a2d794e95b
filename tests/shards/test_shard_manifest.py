"""A run goes on only with what it began with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from panoptic_segformer.shards.manifest import Manifest, lasting_config

MANIFEST = Manifest(
    pictures=10,
    pictures_sha256="ab",
    root="/data",
    uses_dataset_ids=False,
    shard_size=4,
    batch_size=1,
    weights_sha256="cd",
    config={"MODEL": {"A": [1, 2], "B": {}}, "C": None},
)


def test_number_of_shards_is_rounded_up():
    assert [replace(MANIFEST, pictures=number).shards for number in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]


def test_equal_manifest_settles_twice(tmp_path):
    MANIFEST.settle(tmp_path / "manifest.json")
    before = (tmp_path / "manifest.json").read_bytes()
    MANIFEST.settle(tmp_path / "manifest.json")
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert Manifest.read(tmp_path / "manifest.json") == MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": 11}, "pictures was 10, is 11"),
        ({"pictures_sha256": "xy"}, "pictures_sha256 was 'ab', is 'xy'"),
        ({"weights_sha256": "xy"}, "weights_sha256 was 'cd', is 'xy'"),
        ({"shard_size": 5}, "shard_size was 4, is 5"),
        ({"config": {"MODEL": {"A": [1, 3], "B": {}}, "C": None}}, r"config.MODEL.A was \[1, 2\], is \[1, 3\]"),
        ({"config": {"MODEL": {"A": [1, 2], "B": {}}, "C": 0}}, "config.C was None, is 0"),
    ],
)
def test_other_run_is_refused_by_what_differs(tmp_path, change, message):
    MANIFEST.settle(tmp_path / "manifest.json")
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=f"another run: {message}"):
        replace(MANIFEST, **change).settle(tmp_path / "manifest.json")
    assert (tmp_path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("text", ["[]", '{"pictures": 1}', "{"])
def test_file_that_is_no_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is n"):
        MANIFEST.settle(tmp_path / "manifest.json")


def test_device_and_folders_do_not_matter_but_the_model_does(tiny_config):
    key = "MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD"
    first = lasting_config(tiny_config())
    assert lasting_config(tiny_config("MODEL.DEVICE", "cuda", "OUTPUT_DIR", "x", "MODEL.WEIGHTS", "y")) == first
    assert lasting_config(tiny_config(key, "0.1")) != first
