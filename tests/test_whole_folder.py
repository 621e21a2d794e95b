from __future__ import annotations

import os

import pytest

from panoptic_segformer.writing import whole_folder


def test_whole_folder_appears_complete(tmp_path):
    with whole_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out/a").read_text() == "1"


def test_whole_folder_replaces_what_was_there(tmp_path):
    (tmp_path / "out/deep").mkdir(parents=True)
    with whole_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("2")
    assert os.listdir(tmp_path / "out") == ["a"]
    assert os.listdir(tmp_path) == ["out"]


def test_whole_folder_after_an_error_is_as_it_was(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("0")

    def fail():
        with whole_folder(tmp_path / "out") as partial:
            (partial / "a").write_text("3")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert os.listdir(tmp_path / "out") == ["old"]
    assert os.listdir(tmp_path) == ["out"]


def test_whole_folder_without_a_parent_says_so(tmp_path):
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "absent/out"):
        pass
