"""External projects that take no time: a package with a meta-architecture, a config and weights, written to a folder.

The fake models know where the truth is: the upper half of a picture is sky, the lower half grass, with a person in
the lower left quarter. Their one parameter says whether they see the person.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from panopticapi.utils import id2rgb
from PIL import Image

# Detectron2's own metadata, which need no files; classes of COCO.
JOINT, SEPARATED = "coco_2017_val_panoptic", "coco_2017_val_panoptic_separated"
PERSON, GRASS, SKY = 1, 193, 187
CATEGORIES = [
    {"id": PERSON, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": SKY, "name": "sky-other-merged", "isthing": 0, "color": [70, 130, 180]},
    {"id": GRASS, "name": "grass-merged", "isthing": 0, "color": [152, 251, 152]},
]
SIZE = (32, 48)

PACKAGE = """
import os
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances


def add_fake_config(cfg):
    cfg.MODEL.FAKE = CfgNode({{"CALLS": "", "SEPARATED": False}})


@META_ARCH_REGISTRY.register()
class {registered}(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.head = torch.nn.Linear(1, 1)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)
        self.node = cfg.MODEL.FAKE

    def forward(self, batched_inputs):
        with open(self.node.CALLS, "a") as calls:
            calls.write("x")
        {in_forward}
        example, = batched_inputs
        height, width = example["height"], example["width"]
        person, grass, sky = (0, 46, 40) if self.node.SEPARATED else (0, 125, 119)
        ids = torch.full((height, width), 1, dtype=torch.int32)
        ids[height // 2 :] = 2
        segments = [
            {{"id": 1, "category_id": sky, "isthing": False}},
            {{"id": 2, "category_id": grass, "isthing": False}},
        ]
        output = {{}}
        if self.head(torch.ones_like(example["image"][:1, :1, 0])).item() > 0:
            ids[height // 2 :, : width // 2] = 3
            segments.append({{"id": 3, "category_id": person, "isthing": True, "score": 0.9}})
            instances = Instances((height, width))
            instances.pred_masks = (ids == 3)[None]
            instances.pred_boxes = Boxes(torch.tensor([[0.0, height // 2, width // 2, height]]))
            instances.pred_classes = torch.tensor([person])
            instances.scores = torch.tensor([0.9])
            output["instances"] = instances
        output["panoptic_seg"] = (ids, segments)
        return [output]
"""


def write_project(
    folder: Path,
    name: str,
    *,
    sees_person: bool = True,
    registered: str = "FakeModel",
    in_forward: str = "",
    dataset: str = JOINT,
) -> dict[str, object]:
    """Write a project and return its entry in a comparison's file; `calls.txt` gets a letter per call of the model."""
    project = folder / name
    (project / name).mkdir(parents=True)
    (project / name / "__init__.py").write_text(PACKAGE.format(registered=registered, in_forward=in_forward))
    separated = dataset == SEPARATED
    (project / "config.yaml").write_text(
        f"MODEL: {{META_ARCHITECTURE: {registered}, FAKE: {{CALLS: '{project}/calls.txt', SEPARATED: {separated}}}}}\n"
        f"DATASETS: {{TEST: [{dataset}]}}\nINPUT: {{MIN_SIZE_TEST: 64}}\n"
    )
    (project / "calls.txt").write_text("")
    weights = {"head.weight": torch.tensor([[1.0 if sees_person else -1.0]]), "head.bias": torch.zeros(1)}
    torch.save({"model": weights}, project / "weights.pth")
    return {
        "name": name,
        "paths": [str(project)],
        "setup": [f"{name}:add_fake_config"],
        "config": "config.yaml",
        "weights": str(project / "weights.pth"),
    }


def count_calls(entry: dict[str, object]) -> int:
    """Return how often the model of a project was called."""
    return len((Path(entry["paths"][0]) / "calls.txt").read_text())


def true_segments(shift: int = 0) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Return segment ids and records of the truth; the person is `shift` pixels wider than the fakes see it."""
    height, width = SIZE
    ids = np.full(SIZE, 1000)
    ids[height // 2 :] = 2000
    ids[height // 2 :, : width // 2 + shift] = 3000
    records = [
        {"id": id_, "category_id": category, "iscrowd": 0, "area": -1}  # Areas of a json can't be relied on.
        for id_, category in ((1000, SKY), (2000, GRASS), (3000, PERSON))
    ]
    return ids, records


def write_dataset(folder: Path, shifts: tuple[int, ...] = (0, 4), categories: list | None = None) -> dict[str, str]:
    """Write one picture with truth per shift and return the dataset's entry in a comparison's file."""
    for part in ("images", "png"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, shift in enumerate(shifts):
        ids, records = true_segments(shift)
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/scene{number}.png")
        Image.fromarray(id2rgb(ids)).save(folder / f"png/{number}.png")
        images.append({"id": number, "file_name": f"scene{number}.png", "height": SIZE[0], "width": SIZE[1]})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": records})
    content = {"images": images, "annotations": annotations, "categories": categories or CATEGORIES}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return {
        "images": str(folder / "images"),
        "panoptic_json": str(folder / "panoptic.json"),
        "panoptic_png": str(folder / "png"),
    }


def person_overlap(shift: int) -> float:
    """Return the intersection over union of the fakes' person and the true one."""
    half = SIZE[1] // 2
    return half / (half + shift)
