"""The project's own scenes: valid, reproducible, varied."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_segformer.data import Categories, PanopticDatasetMapper, register_datasets, write_scenes
from panoptic_segformer.data.synthetic import CATEGORIES, writing

NUM_SCENES = 40
THINGS = {category["id"] for category in CATEGORIES if category["isthing"]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("synthetic") / "scenes", NUM_SCENES, seed=5)


def _content(folder: Path) -> dict:
    return json.loads((folder / "panoptic.json").read_text())


def _ids(folder: Path, file_name: str) -> np.ndarray:
    return rgb2id(np.array(Image.open(folder / "panoptic_png" / file_name)))


def test_scenes_describe_every_segment_exactly(scenes: Path) -> None:
    content = _content(scenes)
    assert len(content["images"]) == len(content["annotations"]) == NUM_SCENES
    for annotation in content["annotations"]:
        ids = _ids(scenes, annotation["file_name"])
        assert ids.shape == (256, 320)
        infos = {info["id"]: info for info in annotation["segments_info"]}
        assert len(infos) == len(annotation["segments_info"])
        assert set(np.unique(ids).tolist()) - {0} == set(infos)
        for segment_id, info in infos.items():
            rows, columns = np.nonzero(ids == segment_id)
            assert info["area"] == len(rows)
            left, top, width, height = info["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())


def test_scenes_have_each_stuff_class_at_most_once(scenes: Path) -> None:
    for annotation in _content(scenes)["annotations"]:
        stuff = [s["category_id"] for s in annotation["segments_info"] if s["category_id"] not in THINGS]
        assert len(stuff) == len(set(stuff)) >= 2


def test_scenes_vary(scenes: Path) -> None:
    annotations = _content(scenes)["annotations"]
    classes = Counter(s["category_id"] for a in annotations for s in a["segments_info"])
    assert set(classes) == {category["id"] for category in CATEGORIES}
    assert min(classes.values()) >= 5
    counts = {sum(s["category_id"] in THINGS for s in a["segments_info"]) for a in annotations}
    assert {0, 1} <= counts
    assert max(counts) in (7, 8)
    areas = [s["area"] for a in annotations for s in a["segments_info"] if s["category_id"] in THINGS]
    assert min(areas) >= 170
    assert max(areas) > 20 * min(areas)


def test_scenes_have_few_void_pixels(scenes: Path) -> None:
    shares = [(_ids(scenes, a["file_name"]) == 0).mean() for a in _content(scenes)["annotations"]]
    assert 0 < np.mean(shares) < 0.005
    assert max(shares) < 0.02


def test_scenes_train(scenes: Path, files) -> None:
    cfg = files.config("scenes")
    cfg.DATASETS.REGISTER.scenes = CfgNode(
        {
            "IMAGES": str(scenes / "images"),
            "PANOPTIC_JSON": str(scenes / "panoptic.json"),
            "PANOPTIC_PNG": str(scenes / "panoptic_png"),
        }
    )
    register_datasets(cfg)
    categories = Categories.from_metadata(MetadataCatalog.get("scenes"))
    assert categories.thing_names == ("ball", "ring", "star", "crate", "tent", "boat")
    assert categories.stuff_names == ("sky", "mountain", "water", "grass", "sand", "path")
    mapper = PanopticDatasetMapper(cfg, True)
    for entry in DatasetCatalog.get("scenes"):
        example = mapper(entry)
        assert len(example["instances"]) + len(example["stuff"]) > 0


def test_the_same_seed_gives_the_same_scenes(scenes: Path, tmp_path: Path) -> None:
    again, other = write_scenes(tmp_path / "again", 3, seed=5), write_scenes(tmp_path / "other", 3, seed=6)
    for name in ("images/000003.jpg", "panoptic_png/000003.png"):
        assert (again / name).read_bytes() == (scenes / name).read_bytes()
        assert (again / name).read_bytes() != (other / name).read_bytes()
    assert _content(again)["annotations"] == _content(scenes)["annotations"][:3]


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (200, 120)])
def test_scenes_have_the_size_asked_for(tmp_path: Path, size: tuple[int, int]) -> None:
    content = _content(write_scenes(tmp_path / "scenes", 6, seed=1, size=size))
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert (image["height"], image["width"]) == size
        assert Image.open(tmp_path / "scenes" / "images" / image["file_name"]).size == size[::-1]
        assert _ids(tmp_path / "scenes", annotation["file_name"]).shape == size


def test_write_scenes_uses_a_complete_folder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_scenes(tmp_path / "scenes", 2, seed=1)
    monkeypatch.setattr(writing, "compose_scene", lambda *_: pytest.fail("drawn again"))
    assert write_scenes(folder, 2, seed=1) == folder


def test_write_scenes_replaces_other_scenes(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "scenes", 3, seed=1)
    write_scenes(folder, 2, seed=1)
    assert len(_content(folder)["images"]) == 2
    assert len(list((folder / "images").iterdir())) == 2


def test_write_scenes_leaves_nothing_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_second(rng: np.random.Generator, size: tuple[int, int], drawn: list = []) -> object:  # noqa: B006
        drawn.append(size)
        if len(drawn) == 2:
            raise RuntimeError("no more paint")
        return compose_scene(rng, size)

    compose_scene = writing.compose_scene
    monkeypatch.setattr(writing, "compose_scene", fail_at_second)
    with pytest.raises(RuntimeError, match="no more paint"):
        write_scenes(tmp_path / "scenes", 3, seed=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ['{"info": {"description": "mine"}}', "[]", "no json"])
def test_write_scenes_does_not_replace_the_users_data(tmp_path: Path, content: str) -> None:
    (tmp_path / "panoptic.json").write_text(content)
    with pytest.raises(ValueError, match="exists and holds no synthetic scenes"):
        write_scenes(tmp_path, 1, seed=1)
    assert (tmp_path / "panoptic.json").read_text() == content


@pytest.mark.parametrize(("num_scenes", "size"), [(0, (256, 320)), (1, (32, 320))])
def test_write_scenes_refuses_numbers_that_make_no_scene(tmp_path: Path, num_scenes: int, size: tuple) -> None:
    with pytest.raises(ValueError, match="give at least one of at least 64 x 64"):
        write_scenes(tmp_path / "scenes", num_scenes, seed=1, size=size)
