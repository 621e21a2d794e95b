from __future__ import annotations

import os
from pathlib import Path

import pytest

from panoptic_segformer.writing import remove_partial, whole_folder


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


def test_whole_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("0")
    replace = os.replace

    def refuse_new(source, target):
        if Path(source).suffix == ".partial":
            raise OSError("disk")
        replace(source, target)

    def write():
        with whole_folder(tmp_path / "out"):
            pass

    monkeypatch.setattr(os, "replace", refuse_new)
    with pytest.raises(OSError, match="disk"):
        write()
    assert os.listdir(tmp_path / "out") == ["old"]
    assert os.listdir(tmp_path) == ["out"]


def test_whole_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with whole_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("4")
    assert (tmp_path / "out").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["a"]
    assert sorted(os.listdir(tmp_path)) == ["disk", "out"]


def test_whole_folder_never_replaces_a_file(tmp_path):
    (tmp_path / "out").write_text("5")
    with pytest.raises(NotADirectoryError, match="is no folder"), whole_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "5"


def test_whole_folder_without_a_parent_says_so(tmp_path):
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "absent/out"):
        pass


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    for name in (".out.7.partial", ".out.8.partial", ".other.7.partial", ".out.9.old", "out"):
        (tmp_path / name / "deep").mkdir(parents=True)
    for name in (".a[1].7.partial.json", ".b.7.partial.json", "a[1].json", ".a1.7.partial.json"):
        (tmp_path / name).write_text("")
    remove_partial(tmp_path / "out")
    remove_partial(tmp_path / "a[1].json")
    left = [".a1.7.partial.json", ".b.7.partial.json", ".other.7.partial", "a[1].json", "out"]
    assert sorted(os.listdir(tmp_path)) == left
    assert os.listdir(tmp_path / "out") == ["deep"]


def test_old_folder_is_kept_while_there_is_no_new_one(tmp_path):
    (tmp_path / ".out.9.old").mkdir()
    remove_partial(tmp_path / "out")
    assert os.listdir(tmp_path) == [".out.9.old"]
