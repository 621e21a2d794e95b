"""How much memory a large picture takes, from the file to the drawing: the most that this process ever had resident.

The picture is a synthetic scene, enlarged. Without weights they are random, and the thresholds as low as they get: a
segment or two come out.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from detectron2.modeling import build_model
from PIL import Image

from panoptic_segformer import PanopticPredictor, load_config
from panoptic_segformer.data.synthetic import write_scenes
from panoptic_segformer.inference.result import DRAWING_STYLES, QUERIES

SCENE_SIZE = (200, 300)
# What makes segments of queries that are sure of nothing and lie above each other.
MERGING = "MODEL.PANOPTIC_SEGFORMER.MERGING"
TOLERANT = [
    *(f"{MERGING}.SCORE_THRESHOLD", "0.0"),
    *(f"{MERGING}.THING_OVERLAP_THRESHOLD", "0.99"),
    *(f"{MERGING}.STUFF_OVERLAP_THRESHOLD", "0.99"),
]


def resident_gigabytes() -> float:
    """Return the most memory that the process had so far, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write_random_weights(config_file: str, path: Path) -> None:
    """Write weights of a model of a config, its masks lifted to their threshold."""
    torch.manual_seed(0)
    model = build_model(load_config(config_file, ["MODEL.DEVICE", "cpu"]))
    for name, parameter in model.named_parameters():
        if name.endswith("fusion.fuse.bias"):
            torch.nn.init.constant_(parameter, 0.5)
    torch.save({"model": model.state_dict()}, path)


def write_large_scene(size: tuple[int, int], path: Path) -> None:
    """Write a scene, enlarged to (height, width)."""
    scenes = write_scenes(path.with_suffix(""), 1, seed=1, size=SCENE_SIZE)
    scene = Image.open(scenes / "images/000001.jpg")
    scene.resize(size[::-1], Image.Resampling.BICUBIC).save(path)


def main() -> None:
    """Predict one picture, draw it in every style but the queries', and print time and memory after each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--weights", default="", help="default: random")
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 6000), metavar=("HEIGHT", "WIDTH"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights, picture, drawing = (Path(folder) / name for name in ("random.pth", "large.jpg", "drawing.jpg"))
        if not arguments.weights:
            write_random_weights(arguments.config_file, weights)
        write_large_scene(arguments.size, picture)
        predictor = PanopticPredictor(
            arguments.config_file,
            arguments.weights or weights,
            device="cpu",
            opts=[] if arguments.weights else TOLERANT,
        )
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
