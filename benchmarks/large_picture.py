"""How much memory a large picture takes, from the file to the drawing: the most that this process ever had resident.

Weights are random. The masks are lifted and the thresholds lowered so that as many segments as a real picture has come
out, and merging and drawing have their usual work.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model
from PIL import Image

from panoptic_segformer import PanopticPredictor, load_config
from panoptic_segformer.inference.result import DRAWING_STYLES, QUERIES

# Many random queries are sure of nothing, and lie above each other.
OPTS = [
    "MODEL.TIMM.WEIGHTS",
    "",
    "MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD",
    "0.0",
    "MODEL.PANOPTIC_SEGFORMER.MERGING.THING_OVERLAP_THRESHOLD",
    "0.99",
    "MODEL.PANOPTIC_SEGFORMER.MERGING.STUFF_OVERLAP_THRESHOLD",
    "0.99",
]


def resident_gigabytes() -> float:
    """Return the most memory that the process had so far, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Predict one picture, draw it in every style but the queries', and print time and memory after each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 6000), metavar=("HEIGHT", "WIDTH"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    opts = [*OPTS, "MODEL.DEVICE", "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        weights, picture, drawing = (Path(folder) / name for name in ("random.pth", "large.jpg", "drawing.jpg"))
        model = build_model(load_config(arguments.config_file, opts))
        for name, parameter in model.named_parameters():
            if name.endswith("fusion.fuse.bias"):
                torch.nn.init.constant_(parameter, 0.5)
        torch.save({"model": model.state_dict()}, weights)
        del model
        height, width = arguments.size
        noise = np.random.default_rng(0).integers(0, 256, (height // 100, width // 100, 3), np.uint8)
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(picture)
        predictor = PanopticPredictor(arguments.config_file, weights, device="cpu", opts=opts)
        print(f"model loaded: {resident_gigabytes():.2f} GB")
        start = time.perf_counter()
        result = predictor(picture)
        print(f"{len(result.segments)} segments in {time.perf_counter() - start:.1f} s: {resident_gigabytes():.2f} GB")
        for style in DRAWING_STYLES:
            if style != QUERIES:
                start = time.perf_counter()
                result.save(drawing, style)
                print(f"{style} in {time.perf_counter() - start:.1f} s: {resident_gigabytes():.2f} GB")


if __name__ == "__main__":
    main()
