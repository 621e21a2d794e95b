from __future__ import annotations

import pytest
from PIL import Image

from panoptic_segformer.inference.sources import input_files, output_files, sort_inputs


def save(path, size=(40, 30), color=(10, 20, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path, **options)
    return path


def test_input_files_folder_takes_its_pictures_in_order(tmp_path):
    b, a = save(tmp_path / "b.jpg"), save(tmp_path / "a.PNG")
    save(tmp_path / "sub" / "c.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._b.jpg").write_bytes(b"left by another system")
    (tmp_path / "folder.png").mkdir()
    assert input_files([str(tmp_path)]) == [a, b]


def test_input_files_glob_and_file_mix_without_doubles(tmp_path):
    paths = [save(tmp_path / name) for name in ("a1.png", "a2.png", "z.png")]
    (tmp_path / "a3.txt").write_text("no picture")
    found = input_files([tmp_path / "z.png", str(tmp_path / "a*"), tmp_path])
    assert found == [paths[2], paths[0], paths[1]]


def test_input_files_recursive_glob_goes_into_folders(tmp_path):
    deep = save(tmp_path / "x" / "y" / "deep.png")
    assert input_files([str(tmp_path / "**" / "*.png")]) == [deep]


def test_input_files_name_with_brackets_is_a_name(tmp_path):
    path = save(tmp_path / "scan[1].png")
    assert input_files([str(path)]) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.jpg", r"absent\.jpg does not exist"),
        ("", "has no pictures"),
        ("*.jpg", r"no picture matches .*\*\.jpg"),
    ],
)
def test_input_files_nothing_found_names_the_input(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(FileNotFoundError, match=message):
        input_files([str(tmp_path / name)])


def test_output_files_have_the_stem_of_their_input(tmp_path):
    files = [tmp_path / name for name in ("a.jpg", "b.JPEG", "c.png", "d.webp")]
    names = [path.name for path in output_files(files, tmp_path / "out")]
    assert names == ["a.jpg", "b.jpg", "c.png", "d.png"]


def test_output_files_equal_stems_do_not_meet(tmp_path):
    names = ["x/cat.jpg", "y/cat.jpg", "z/x/cat.jpg", "x/Cat.png", "x/dog.jpg", "x_cat_2.jpg"]
    outputs = output_files([tmp_path / name for name in names], tmp_path / "out")
    assert [path.stem for path in outputs[:2]] == ["x_cat", "y_cat"]
    assert outputs[4].name == "dog.jpg"
    assert len({path.stem.lower() for path in outputs}) == len(names)


def test_output_files_never_replace_an_input(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png would replace it: choose another folder"):
        output_files([tmp_path / "a.png"], tmp_path)
    assert output_files([tmp_path / "a.webp"], tmp_path) == [tmp_path / "a.png"]


def test_output_files_of_videos_are_mp4_beside_pictures_of_their_name(tmp_path):
    names = [path.name for path in output_files([tmp_path / "a.AVI", tmp_path / "b.mp4"], tmp_path / "out")]
    assert names == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match=r"b\.mp4 would replace it"):
        output_files([tmp_path / "b.mp4"], tmp_path)


def test_sort_inputs_tells_pictures_videos_and_cameras_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture, video = save(tmp_path / "a.png"), tmp_path / "walk.MOV"
    video.write_bytes(b"never opened here")
    inputs = sort_inputs(["1", tmp_path, "0", "1", video])
    assert (inputs.pictures, inputs.videos, inputs.cameras) == ([picture], [video], [1, 0])


def test_sort_inputs_number_that_is_a_file_is_no_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").write_bytes(b"a file")
    inputs = sort_inputs(["7"])
    assert [path.name for path in inputs.pictures] == ["7"]
    assert inputs.cameras == []


def test_sort_inputs_nothing_found_names_the_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no pictures: files that end in \.avi, \.bmp"):
        sort_inputs([tmp_path])
