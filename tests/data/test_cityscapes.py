"""Detectron2's registration of Cityscapes: what training and evaluation make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes_panoptic import register_all_cityscapes_panoptic
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_segformer import load_config
from panoptic_segformer.data import Categories, PanopticDatasetMapper
from panoptic_segformer.evaluation.panoptic import PanopticQualityEvaluator
from panoptic_segformer.evaluation.truth import PanopticTruth

NAMES = [f"cityscapes_fine_panoptic_{split}" for split in ("train", "val")]
PICTURE = "aachen_000000_000019"
ROAD, CAR = 7, 26  # the dataset's own ids
HEIGHT, WIDTH = 32, 64


def write_split(root: Path, split: str) -> None:
    """Write one picture of a road with two cars, the second of which is a crowd."""
    ids = np.full((HEIGHT, WIDTH), ROAD, np.int32)
    ids[8:16, 10:20] = 1000 * CAR
    ids[8:16, 40:60] = CAR
    ids[:4] = 0
    picture = root / "leftImg8bit" / split / "aachen" / f"{PICTURE}_leftImg8bit.png"
    semantic = root / "gtFine" / split / "aachen" / f"{PICTURE}_gtFine_labelTrainIds.png"
    panoptic = root / f"gtFine/cityscapes_panoptic_{split}" / f"{PICTURE}_gtFine_panoptic.png"
    for path, array in ((picture, id2rgb(ids)), (semantic, ids.astype(np.uint8)), (panoptic, id2rgb(ids))):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    segments = [(ROAD, ROAD, 0), (1000 * CAR, CAR, 0), (CAR, CAR, 1)]
    annotation = {
        "image_id": PICTURE,
        "file_name": panoptic.name,
        "segments_info": [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in segments],
    }
    categories = [
        {"id": id_, "name": name, "isthing": int(name == "car"), "color": [0, 0, 0]}
        for id_, name in ((ROAD, "road"), (CAR, "car"))
    ]
    image = {"id": PICTURE, "file_name": f"{PICTURE}_gtFine_leftImg8bit.png", "height": HEIGHT, "width": WIDTH}
    content = {"images": [image], "annotations": [annotation], "categories": categories}
    (root / f"gtFine/cityscapes_panoptic_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def config(tmp_path, config_dir):
    """Config of Cityscapes whose data lie in a folder of the test."""
    usual_root = MetadataCatalog.get(NAMES[0]).panoptic_json.split("cityscapes/")[0]

    def move(root: str) -> None:
        for name in NAMES:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        register_all_cityscapes_panoptic(root)

    for split in ("train", "val"):
        write_split(tmp_path / "cityscapes", split)
    move(str(tmp_path))
    yield load_config(config_dir / "cityscapes/panoptic_segformer_r50.yaml", ["INPUT.RANDOM_FLIP", "none"])
    move(usual_root)


def test_classes_are_eight_things_and_eleven_stuff(config):
    categories = Categories.of_datasets((*config.DATASETS.TRAIN, *config.DATASETS.TEST))
    node = config.MODEL.PANOPTIC_SEGFORMER
    assert (categories.num_things, categories.num_stuff) == (node.NUM_THING_CLASSES, node.NUM_STUFF_CLASSES) == (8, 11)
    assert "car" in categories.thing_names
    assert categories.stuff_names[0] == "road"


def test_training_example_is_cropped_and_has_targets(config):
    (entry,) = DatasetCatalog.get(NAMES[0])
    config.INPUT.MIN_SIZE_TRAIN = (64, 64)
    config.INPUT.CROP.SIZE = [48, 100]
    example = PanopticDatasetMapper(config, True)(entry)
    assert example["image"].shape == (3, 48, 100)
    assert (example["height"], example["width"]) == (HEIGHT, WIDTH)
    categories = Categories.of_datasets((NAMES[0],))
    assert [categories.thing_names[label] for label in example["instances"].gt_classes] == ["car"]
    assert [categories.stuff_names[label] for label in example["stuff"].gt_classes] == ["road"]


def test_perfect_prediction_has_quality_100(config):
    truth = PanopticTruth.of_dataset(NAMES[1])
    (entry,) = DatasetCatalog.get(NAMES[1])
    evaluator = PanopticQualityEvaluator(truth)
    ids = torch.from_numpy(truth.segment_ids(PICTURE)).to(torch.int32)
    metadata = MetadataCatalog.get(NAMES[1])
    segments = [
        {"id": ROAD, "category_id": metadata.stuff_dataset_id_to_contiguous_id[ROAD], "isthing": False},
        {"id": 1000 * CAR, "category_id": metadata.thing_dataset_id_to_contiguous_id[CAR], "isthing": True},
    ]
    ids[ids == CAR] = 0  # nothing is said about the crowd
    evaluator.reset()
    evaluator.process([entry], [{"panoptic_seg": (ids, segments)}])
    results = evaluator.evaluate()["panoptic_seg"]
    assert (results["PQ"], results["PQ_th"], results["PQ_st"]) == (100, 100, 100)
