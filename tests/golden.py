"""Golden runs of the released code: generated weights as a released checkpoint, and our model built for them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_segformer import load_config
from tiny import words

CONFIGS = Path(__file__).resolve().parent.parent / "configs/coco"
CONFIG = CONFIGS / "panoptic_segformer_r50_1x.yaml"
# The golden models: two layers of everything, no dropout.
SMALL = {
    "MODEL.PANOPTIC_SEGFORMER.ENCODER.NUM_LAYERS": "2",
    "MODEL.PANOPTIC_SEGFORMER.LOCATION_DECODER.NUM_LAYERS": "2",
    "MODEL.PANOPTIC_SEGFORMER.LOCATION_DECODER.NUM_QUERIES": "100",
    "MODEL.PANOPTIC_SEGFORMER.MASK_DECODER.NUM_THING_BLOCKS": "2",
    "MODEL.PANOPTIC_SEGFORMER.MASK_DECODER.NUM_STUFF_BLOCKS": "2",
    "MODEL.PANOPTIC_SEGFORMER.DROPOUT": "0.0",
    "MODEL.DEVICE": "cpu",
}
# A ResNet-50 of a quarter of the width.
NARROW_R50 = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "16",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "16",
}
OVERRIDES = NARROW_R50 | SMALL
TIMM = {"MODEL.TIMM.WEIGHTS": "", "MODEL.TIMM.DROP_PATH": "0.0"}
# Config, overrides, and what yaml files alone can override, options of the timm model.
CASES = {
    "small": (CONFIG, OVERRIDES, {}),
    "small_pvt": (
        CONFIGS / "panoptic_segformer_pvtv2_b5_2x.yaml",
        SMALL | TIMM | {"MODEL.TIMM.NAME": "pvt_v2_b0"},
        {},
    ),
    "small_swin": (
        CONFIGS / "panoptic_segformer_swin_l_2x.yaml",
        SMALL | TIMM | {"MODEL.TIMM.NAME": "swin_tiny_patch4_window7_224"},
        {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]},
    ),
}


@dataclass(frozen=True)
class Golden:
    """One of the golden CASES."""

    folder: Path
    case: str = "small"

    @cached_property
    def json(self):
        return json.loads((self.folder / f"{self.case}.json").read_text())

    @cached_property
    def arrays(self):
        return np.load(self.folder / f"{self.case}.npz")

    @cached_property
    def arrays_float64(self):
        return np.load(self.folder / f"{self.case}_f64.npz")

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    @cached_property
    def state_dict(self):
        spec = importlib.util.spec_from_file_location("portable_weights", self.folder / "portable_weights.py")
        weights = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(weights)
        lines = (self.folder / f"{self.case}_keys.txt").read_text().splitlines()
        keys = [parse_key(line) for line in lines if line]
        prefix = "override/"
        overrides = {name[len(prefix) :]: self.arrays[name] for name in self.arrays.files if name.startswith(prefix)}
        state_dict = weights.make_state_dict(keys, self.json["seed"], overrides)
        assert weights.crc(state_dict) == self.json["weights_crc32"]
        return {name: torch.from_numpy(np.array(value)) for name, value in state_dict.items()}

    def save_checkpoint(self, path: Path) -> Path:
        """Save the weights in the form that the authors release."""
        torch.save({"meta": {}, "state_dict": self.state_dict}, path)
        return path

    def build_model(self, **overrides: str):
        """Build our model of the golden case, with fresh weights, in evaluation mode."""
        return build_model(self.config(**overrides)).eval()

    def config(self, **overrides: str):
        config, options, timm_options = CASES[self.case]
        options = options | {name.replace("__", "."): value for name, value in overrides.items()}
        cfg = load_config(config, words(options))
        cfg.MODEL.TIMM.OPTIONS.update(timm_options)
        return cfg

    def image(self, run: str, index: int = 0) -> torch.Tensor:
        """Picture as (3, H, W) uint8 RGB at network size."""
        return self[f"{run}/in.img_u8_{index}"].flip(-1).permute(2, 0, 1).contiguous()

    def example(self, run: str, index: int = 0):
        """Training example in the form that PanopticDatasetMapper makes."""
        image = self.image(run, index)
        size = tuple(image.shape[-2:])
        labels = self[f"{run}/in.gt_labels_{index}"]
        masks = self[f"{run}/in.gt_masks_{index}"]
        boxes = self[f"{run}/in.gt_bboxes_{index}"]
        masks = torch.from_numpy(np.unpackbits(masks.numpy(), axis=1)[:, : size[0] * size[1]])
        masks = masks.view(-1, *size).bool()
        is_thing = labels < 80
        things, stuff = Instances(size), Instances(size)
        things.gt_classes, things.gt_boxes = labels[is_thing], Boxes(boxes[is_thing])
        things.gt_masks = BitMasks(masks[is_thing])
        stuff.gt_classes, stuff.gt_masks = labels[~is_thing] - 80, BitMasks(masks[~is_thing])
        return {"image": image, "instances": things, "stuff": stuff}


def parse_key(line: str) -> tuple[str, tuple[int, ...]]:
    name, shape = line.split("\t")[:2]
    return name, tuple(json.loads(shape))
