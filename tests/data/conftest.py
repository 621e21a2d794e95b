"""A small dataset in COCO-panoptic form, made by hand so that every number in it is known."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_segformer import add_panoptic_segformer_config

HEIGHT, WIDTH = 24, 32

# Ids with gaps, things and stuff mixed, the list not sorted: contiguous ids are cat 0, grass 1, dog 2, sky 3.
CATEGORIES = [
    {"id": 20, "name": "sky", "isthing": 0, "color": [10, 20, 30]},
    {"id": 3, "name": "cat", "isthing": 1, "color": [200, 0, 0]},
    {"id": 12, "name": "dog", "isthing": 1, "color": [0, 200, 0]},
    {"id": 7, "name": "grass", "isthing": 0, "color": [0, 0, 200]},
]
# Segment ids that need each of the three colour channels.
SKY, GRASS, CAT, DOGS, DOG = 0x0000FF, 0x012C00, 0x7F0001, 0xFFFFFE, 9


def first_ids() -> np.ndarray:
    """Sky above, void column at the right, grass below, a cat across both, a crowd of dogs in the corner."""
    ids = np.full((HEIGHT, WIDTH), SKY)
    ids[12:] = GRASS
    ids[:, -3:] = 0
    ids[8:16, 4:10] = CAT
    ids[20:, :6] = DOGS
    return ids


def second_ids() -> np.ndarray:
    """Grass with one dog."""
    ids = np.full((HEIGHT, WIDTH), GRASS)
    ids[2:5, 20:30] = DOG
    return ids


def _info(segment_id: int, category_id: int, iscrowd: int = 0) -> dict[str, Any]:
    return {"id": segment_id, "category_id": category_id, "iscrowd": iscrowd}


@dataclass
class PanopticFiles:
    """A dataset on disk; change `content` and `save` to damage it."""

    root: Path
    content: dict[str, Any]

    @property
    def json_path(self) -> Path:
        return self.root / "panoptic.json"

    def save(self) -> None:
        self.json_path.write_text(json.dumps(self.content))

    def write_png(self, number: int, ids: np.ndarray) -> Path:
        path = self.root / "png" / f"{number}.png"
        Image.fromarray(id2rgb(ids)).save(path)
        return path

    def image_path(self, number: int) -> Path:
        return self.root / "images" / f"{number}.jpg"

    def node(self) -> CfgNode:
        return CfgNode(
            {
                "IMAGES": str(self.root / "images"),
                "PANOPTIC_JSON": str(self.json_path),
                "PANOPTIC_PNG": str(self.root / "png"),
            }
        )

    def config(self, name: str = "small") -> CfgNode:
        """Config that registers and trains on the dataset, its pictures unchanged."""
        cfg = get_cfg()
        add_panoptic_segformer_config(cfg)
        cfg.DATASETS.REGISTER[name] = self.node()
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
        cfg.INPUT.FORMAT = "RGB"
        cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
        cfg.INPUT.MIN_SIZE_TEST = HEIGHT
        cfg.INPUT.RANDOM_FLIP = "none"
        cfg.INPUT.CROP_RESIZE.PROB = 0.0
        return cfg


@pytest.fixture
def files(tmp_path: Path) -> PanopticFiles:
    for folder in ("images", "png"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    segments = {
        1: [_info(SKY, 20), _info(GRASS, 7), _info(CAT, 3), _info(DOGS, 12, 1)],
        2: [_info(GRASS, 7), _info(DOG, 12)],
    }
    for number, infos in segments.items():
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.jpg", quality=95)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
    content = {"images": images, "annotations": annotations, "categories": copy.deepcopy(CATEGORIES)}
    made = PanopticFiles(tmp_path, content)
    made.write_png(1, first_ids())
    made.write_png(2, second_ids())
    made.save()
    return made


@pytest.fixture(autouse=True)
def _forget_datasets() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
