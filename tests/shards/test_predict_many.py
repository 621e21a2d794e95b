"""`panseg predict-many` in one process: what is finished stays, what is missing is done, nothing is lost or twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_segformer.cli import main
from panoptic_segformer.data.reading import check_segments, read_panoptic_json, read_segment_ids
from panoptic_segformer.shards import predicting
from panoptic_segformer.shards.places import Places
from panoptic_segformer.shards.running import sole_run

SHARDS = 4


def results(output: Path) -> tuple[dict, dict[str, bytes]]:
    """Return the joined json and the content of every png that it names."""
    content = json.loads((output / "predictions.json").read_text(encoding="utf-8"))
    names = [annotation["file_name"] for annotation in content["annotations"]]
    return content, {name: (output / "predictions" / name).read_bytes() for name in names}


def stamps(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "predictions").glob("shard_*")}


@pytest.fixture(scope="module")
def plain(words, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("plain") / "out"
    assert main(words(output)) == 1  # One picture is broken.
    return output


def test_every_picture_is_there_once_and_the_broken_one_is_listed(plain, pictures):
    content = read_panoptic_json(plain / "predictions.json")
    sound = sorted(path.name for path in pictures.iterdir() if path.name != "p000005b.jpg")
    assert [image["file_name"] for image in content["images"]] == sound
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert [one["image_id"] for one in content["annotations"]] == [image["id"] for image in content["images"]]
    (failure,) = content["failures"]
    assert failure["file_name"] == "p000005b.jpg"
    assert "cannot be read" in failure["reason"]
    assert sorted(path.name for path in (plain / "predictions").iterdir()) == [f"shard_{n:06d}" for n in range(SHARDS)]


def test_png_hold_the_segments_of_the_json(plain):
    content, _ = results(plain)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    numbers = []
    for annotation in content["annotations"]:
        path = plain / "predictions" / annotation["file_name"]
        ids = read_segment_ids(path, sizes[annotation["image_id"]])
        assert np.array_equal(ids, rgb2id(np.asarray(Image.open(path))))
        check_segments(path, ids, {segment["id"] for segment in annotation["segments_info"]})
        numbers.append(len(annotation["segments_info"]))
    assert sum(numbers) > len(numbers)


def test_results_are_those_of_demo(plain, words, pictures, tmp_path):
    demo = ["demo", *words(tmp_path / "demo")[1:]]
    place = demo.index("--shard-size")
    demo[place : place + 2] = ["--draw", "--save", "panoptic"]
    assert main(demo) == 1
    content, png = results(plain)
    theirs = json.loads((tmp_path / "demo/panoptic/predictions.json").read_text())
    by_name = {image["file_name"]: image["id"] for image in theirs["images"]}
    their_annotations = {annotation["image_id"]: annotation for annotation in theirs["annotations"]}
    assert theirs["categories"] == content["categories"]
    assert len(by_name) == len(content["images"])
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        other = their_annotations[by_name[image["file_name"]]]
        assert other["segments_info"] == annotation["segments_info"]
        assert (tmp_path / "demo/panoptic/predictions" / other["file_name"]).read_bytes() == png[
            annotation["file_name"]
        ]


@pytest.fixture
def copy(plain, tmp_path) -> Path:
    """A copy of the finished run, to be broken."""
    return Path(shutil.copytree(plain, tmp_path / "out"))


def test_rerun_does_missing_shards_alone(plain, copy, words, capsys):
    before = stamps(copy)
    shutil.rmtree(copy / "predictions/shard_000001")
    (copy / "predictions/.shard_000001.77.partial/predictions").mkdir(parents=True)  # of a process that was killed
    (copy / ".predictions.77.partial.json").write_text("{")
    assert main(words(copy)) == 1
    assert results(copy) == results(plain)
    after = stamps(copy)
    assert {name for name in after if after[name] != before[name]} == {"shard_000001"}
    left = [path.name for path in copy.rglob(".*") if path.name not in (".lock", ".attempts")]
    assert left == []
    assert "predicted 9 of 10 pictures in 4 shards" in capsys.readouterr().out


def test_rerun_of_all_finished_builds_no_model(copy, words, monkeypatch):
    monkeypatch.setattr(predicting, "PanopticPredictor", None)
    (copy / "predictions.json").unlink()
    assert main(words(copy)) == 1
    assert (copy / "predictions.json").is_file()


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("shard", [0, 2])
def test_interruption_costs_one_shard(plain, words, tmp_path, monkeypatch, shard):
    true_predict, calls = predicting.predict_files, []

    def interrupted(predictor, files, savers, *arguments, **options):
        calls.append(files)
        if len(calls) == shard + 1:
            true_predict(predictor, files[:1], savers, *arguments, **options)
            raise Interrupted
        return true_predict(predictor, files, savers, *arguments, **options)

    monkeypatch.setattr(predicting, "predict_files", interrupted)
    with pytest.raises(Interrupted):
        main(words(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out/predictions")) == [f"shard_{number:06d}" for number in range(shard)]
    assert not (tmp_path / "out/predictions.json").exists()
    assert main(words(tmp_path / "out")) == 1
    assert len(calls) == SHARDS + 1
    assert results(tmp_path / "out") == results(plain)


def test_disk_that_is_full_leaves_no_half_shard(words, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert main(words(tmp_path / "out")) == 2
    assert "No space left" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out/predictions") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--shard-size", "5"], "shard_size was 3, is 5"),
        (["--batch", "2"], "batch_size was 1, is 2"),
        (["--input", "{pictures}/p000001.jpg"], "pictures was 10, is 1"),
        (["--weights", "{other}"], "weights_sha256 was"),
    ],
)
def test_other_run_in_the_same_folder_is_refused(copy, words, pictures, tmp_path, capsys, change, message):
    arguments = words(copy)
    (tmp_path / "other.pth").write_bytes(b"other")
    value = change[1].format(pictures=pictures, other=tmp_path / "other.pth")
    if change[0] in arguments:
        arguments[arguments.index(change[0]) + 1] = value
    else:
        arguments[1:1] = [change[0], value]
    before = results(copy)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert results(copy) == before


@pytest.mark.parametrize("name", ["pictures/mine.jpg", "predictions/mine.png", "thesis.txt"])
def test_folder_of_other_things_is_left_alone(words, tmp_path, capsys, name):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    assert main(words(tmp_path / "out")) == 2
    assert "give a new folder" in capsys.readouterr().err
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_two_runs_at_a_time_are_refused(words, tmp_path, capsys):
    with sole_run(Places(tmp_path / "out")):
        assert main(words(tmp_path / "out")) == 2
    assert "another run writes" in capsys.readouterr().err


def test_pictures_of_the_dataset_have_its_ids(words, scenes_root, tmp_path):
    images = scenes_root / "synthetic_scenes/val/images"
    truth = json.loads((images.parent / "panoptic.json").read_text())
    assert main(words(tmp_path / "out", shard_size=1, inputs=images)) == 0
    ids = {image["file_name"]: image["id"] for image in results(tmp_path / "out")[0]["images"]}
    assert ids == {image["file_name"]: image["id"] for image in truth["images"]}


def test_equal_names_in_two_folders_stay_apart(words, pictures, tmp_path):
    for folder in "ab":
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copy(pictures / "p000001.jpg", tmp_path / "in" / folder / "same.jpg")
    assert main(words(tmp_path / "out", inputs=tmp_path / "in/*/*.jpg")) == 0
    content, png = results(tmp_path / "out")
    assert [image["file_name"] for image in content["images"]] == ["a/same.jpg", "b/same.jpg"]
    assert len(png) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--address", "auto"], "--workers is 0"), (["--device", "cuda"], "choose cpu")],
    ids=["address", "device"],
)
def test_what_does_not_go_together_is_said_before_anything_is_made(words, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = words(tmp_path / "out", *more)
    device = arguments.index("MODEL.DEVICE", arguments.index("--opts"))
    del arguments[device : device + 2]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
