"""The list of pictures: every one once, in one order, in shards."""

from __future__ import annotations

import hashlib
import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segformer.shards.listing import pictures_of, write_lists
from panoptic_segformer.shards.places import Places


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def listed(tmp_path, pictures, size=2, dataset=()):
    lists = tmp_path / "pictures"
    lists.mkdir()
    return write_lists(lists, pictures, size, dataset), Places(tmp_path)


def test_inputs_of_all_kinds_keep_their_order_and_give_each_picture_once(tmp_path, monkeypatch):
    touch(tmp_path, "folder/b.jpg", "folder/a.PNG", "folder/notes.md", "folder/.hidden.png", "deep/1/x.webp", "one.bmp")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(f"one.bmp\n\nfolder/b.jpg\r\n{tmp_path}/gone.jpg\n", encoding="utf-8")
    names = [os.path.relpath(path) for path in pictures_of(["list.txt", "folder", "deep/**/*", "one.bmp"])]
    assert names == ["one.bmp", "folder/b.jpg", "gone.jpg", "folder/a.PNG", "deep/1/x.webp"]


def test_list_of_many_is_read_as_it_is_asked_for(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"/data/{number}.jpg\n" for number in range(200_000)), encoding="utf-8")
    tracemalloc.start()
    first = next(pictures_of([str(tmp_path / "list.txt")]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert first == "/data/0.jpg"
    assert peak < 1e6


@pytest.mark.parametrize(("name", "message"), [("nothing", "does not exist"), ("empty", "has no pictures")])
def test_input_without_pictures_is_named(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"{name} {message}"):
        list(pictures_of([str(tmp_path / name)]))


def test_line_break_in_a_name_is_refused(tmp_path):
    touch(tmp_path, "a\nb.png")
    with pytest.raises(ValueError, match="line break"):
        list(pictures_of([str(tmp_path)]))


def test_empty_list_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no picture"):
        listed(tmp_path, [])


@given(
    names=st.lists(st.text("ab/é\udcff\x0b\u2028", min_size=1, max_size=5), min_size=1, max_size=12, unique=True),
    size=st.integers(1, 5),
)
def test_lists_have_every_picture_in_its_place(tmp_path_factory, names, size):
    paths = list(dict.fromkeys(os.path.normpath(f"/data/{name}/p.jpg") for name in names))
    listing, places = listed(tmp_path_factory.mktemp("run"), paths, size)
    shards = [list(map(str, places.read_list(number))) for number in range(-(-len(paths) // size))]
    assert shards == [paths[start : start + size] for start in range(0, len(paths), size)]
    assert listing.number == len(paths)
    assert str(listing.root) == os.path.commonpath([os.path.dirname(path) for path in paths])
    text = "".join(f"{path}\n" for path in paths)
    assert listing.sha256 == hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/d/a.jpg", "/d/b.jpg"], True),
        (["/d/b.jpg"], True),
        (["/d/a.jpg", "/d/z.jpg"], False),
        (["/d/a.jpg", "/e/a.jpg"], False),
    ],
    ids=["all", "some", "stranger", "twice"],
)
def test_pictures_of_the_dataset_are_known(tmp_path, paths, expected):
    assert listed(tmp_path, paths, dataset=("a.jpg", "b.jpg"))[0].in_dataset is expected
