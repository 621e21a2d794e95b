"""What is kept comes back as it was, or not at all."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from panoptic_segformer.comparison.cache import PredictionCache, code_digest, digest_of
from panoptic_segformer.comparison.results import Prediction
from panoptic_segformer.hashing import file_digest

KEY = digest_of("anything")


def example(ids, instances=None):
    segments = [
        {"id": int(id_), "category_id": 7, "isthing": True, "score": 0.1, "area": int((ids == id_).sum())}
        for id_ in np.unique(ids[ids > 0])
    ]
    return Prediction(ids, segments, instances)


@given(ids=arrays(np.int32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 2**24 - 1)))
def test_predictions_come_back(ids, tmp_path_factory):
    cache = PredictionCache(tmp_path_factory.mktemp("cache"))
    cache.write(KEY, example(ids))
    found = cache.read(KEY)
    np.testing.assert_array_equal(found.segment_ids, ids)
    assert found.segment_ids.dtype == np.int32
    assert found.segments == example(ids).segments
    assert found.instances is None


@pytest.mark.parametrize("instances", [[], [{"category_id": 1, "score": 0.5, "bbox": [0.0, 1.0, 2.0, 3.0]}]])
def test_no_instance_differs_from_no_instances_at_all(tmp_path, instances):
    cache = PredictionCache(tmp_path)
    cache.write(KEY, example(np.ones((2, 3), np.int32), instances))
    assert cache.read(KEY).instances == instances


def test_what_was_never_written_is_not_there(tmp_path):
    assert PredictionCache(tmp_path / "absent").read(KEY) is None
    assert PredictionCache(tmp_path / "absent").read_record(KEY) is None


@pytest.mark.parametrize("suffix", [".png", ".json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "removed"])
def test_damaged_entries_are_not_there_and_can_be_made_anew(tmp_path, suffix, damage):
    cache = PredictionCache(tmp_path)
    prediction = example(np.ones((20, 30), np.int32))
    cache.write(KEY, prediction)
    (path,) = tmp_path.rglob(f"*{suffix}")
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "changed" else content[: len(content) // 2])
    assert cache.read(KEY) is None
    cache.write(KEY, prediction)
    np.testing.assert_array_equal(cache.read(KEY).segment_ids, prediction.segment_ids)


def test_digests_tell_every_part_apart(tmp_path):
    assert len({digest_of("a", "b"), digest_of("ab"), digest_of("b", "a"), digest_of(["a", "b"])}) == 4
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    (tmp_path / "file").write_bytes(b"bytes")
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"bytes").hexdigest()


def test_code_digest_changes_with_code_alone(tmp_path):
    def digest(place, files):
        for name, content in files.items():
            path = tmp_path / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return code_digest([tmp_path / place])

    code = {"model.py": "a", "ops/kernel.so": "b"}
    first = digest("first", code)
    assert digest("elsewhere", code) == first
    assert digest("elsewhere", {"notes.txt": "c", "ops/__pycache__/kernel.pyc": "d"}) == first
    assert len({first, digest("other", {**code, "model.py": "A"}), digest("moved", {"m.py": "a", **code})}) == 3
    assert digest("elsewhere", {"ops/kernel.so": "B"}) != first
