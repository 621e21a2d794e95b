"""Panoptic segmentation with ONNX Runtime, numpy and Pillow; neither torch nor Detectron2 is needed.

    panseg export --config-file YAML --weights FILE --format onnx --output model.onnx
    python examples/onnx_runtime.py model.onnx street.jpg --output output/street

writes street_overlay.png, and street_panoptic.png and street.json in COCO-panoptic form. The network is in the file;
what is here is the resizing in front of it and mask-wise merging behind it (paper, section 3.6, algorithm 1).

Shape legend: N candidates, h, w mask size, H, W size that the network sees, H0, W0 size of the picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

# Key of the description among the metadata of the file.
DESCRIPTION = "panoptic_segformer"
OVERLAY_WEIGHT = 0.55


class OnnxPanoptic:
    """A file that `panseg export --format onnx` wrote, ready for pictures.

    Attributes:
        description: what the file says of itself: classes, sizes, thresholds.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Open the file; threads: of the CPU, 0 = ONNX Runtime's choice."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        if DESCRIPTION not in metadata:
            raise SystemExit(f"{path} does not describe itself: write it by `panseg export --format onnx`")
        self.description: dict[str, Any] = json.loads(metadata[DESCRIPTION])

    def __call__(self, picture: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return segment ids (H0, W0) int32, 0 = void, and a record per segment of a picture (H0, W0, 3) uint8 RGB."""
        candidates = self.candidates(network_input(picture, self.description["input"]))
        return merge(candidates, picture.shape[:2], self.description["merging"])

    def candidates(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the network's outputs by name for an image (3, H, W) uint8."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"image": image}), strict=True))


def network_input(picture: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """Return a picture (H0, W0, 3) uint8 RGB as the network takes it, (3, H, W) uint8: resized, channels first."""
    size = _resized(picture.shape[1], picture.shape[0], options["short_side"], options["long_side"])
    least, greatest = options["least_side"], options["greatest_side"]
    if not least <= min(size) <= max(size) <= greatest:
        raise SystemExit(f"the picture would have {size[1]}x{size[0]} pixels, the network takes {least} to {greatest}")
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    ordered = resized if options["channels"] == "RGB" else resized[..., ::-1]
    return np.ascontiguousarray(ordered.transpose(2, 0, 1))


def _resized(width: int, height: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Return width and height that a picture is resized to, in the steps of Detectron2's ResizeShortestEdge."""
    if not short_side:
        return width, height
    scale = short_side / min(width, height)
    sides = [short_side, scale * height] if width <= height else [scale * width, short_side]
    if long_side and max(sides) > long_side:
        scale = long_side / max(sides)
        sides = [side * scale for side in sides]
    return int(sides[0] + 0.5), int(sides[1] + 0.5)


def merge(
    candidates: dict[str, np.ndarray], size: tuple[int, int], options: dict[str, float]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Paint the candidates' masks, best first, on what is still free.

    Args:
        candidates: masks (N, h, w), class_probs (N,), category_ids (N,), is_thing (N,), by name.
        size: (H0, W0) of the result.
        options: thresholds and exponents of merging.
    Returns: segment ids (H0, W0) int32, 0 = void; records with id, category_id, isthing, score and area, best first.
    """
    masks, probs = candidates["masks"], candidates["class_probs"]
    threshold = np.float32(options["mask_threshold"])
    scores = np.zeros(len(masks), np.float32)
    for row in np.flatnonzero(masks.max((1, 2)) > threshold):  # upsampling never exceeds the largest value
        values = upsample(masks[row], size)
        inside = values[values > threshold]
        if inside.size:
            # One pixel more than there are, as the released code has it.
            mean = inside.sum() / np.float32(inside.size + 1)
            scores[row] = probs[row] ** options["class_exponent"] * mean ** options["mask_exponent"]

    segment_ids = np.zeros(size, np.int32)
    records: list[dict[str, Any]] = []
    stuff: dict[int, dict[str, Any]] = {}
    for row in np.argsort(-scores, kind="stable"):
        category_id, isthing = int(candidates["category_ids"][row]), bool(candidates["is_thing"][row])
        if scores[row] < options["score_threshold"]:
            break
        mask = upsample(masks[row], size) > threshold
        free = mask & (segment_ids == 0)
        area, visible = int(mask.sum()), int(free.sum())
        limit = options["thing_overlap_threshold" if isthing else "stuff_overlap_threshold"]
        if not visible or np.float32(area - visible) / np.float32(area) > np.float32(limit):
            continue
        record = None if isthing else stuff.get(category_id)
        if record is None:
            score = float(scores[row])
            record = {"id": len(records) + 1, "category_id": category_id, "isthing": isthing, "score": score, "area": 0}
            records.append(record)
            if not isthing:  # queries that share a class of stuff make one segment
                stuff[category_id] = record
        record["area"] += visible
        segment_ids[free] = record["id"]
    return segment_ids, records


def upsample(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask (h, w) float32 at another size, bilinear, corners not aligned, as torch's F.interpolate has it."""
    top, bottom, down = _taps(mask.shape[0], size[0])
    left, right, across = _taps(mask.shape[1], size[1])
    columns = mask[:, left] * (1 - across) + mask[:, right] * across
    return columns[top] * (1 - down)[:, None] + columns[bottom] * down[:, None]


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of `target` places the two cells of `source` that it lies between and the second one's share."""
    scale = np.float32(source) / np.float32(target)
    places = np.maximum((np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    first = np.minimum(places.astype(np.int64), source - 1)
    return first, np.minimum(first + 1, source - 1), (places - first).astype(np.float32)


def overlay(
    picture: np.ndarray, segment_ids: np.ndarray, records: list[dict[str, Any]], categories: list[dict[str, Any]]
) -> np.ndarray:
    """Return the picture (H0, W0, 3) uint8 with its segments in the colours of their classes, borders in white."""
    colors = {(entry["isthing"], entry["id"]): entry["color"] for entry in categories}
    table = np.zeros((len(records) + 1, 3), np.float32)
    for record in records:
        table[record["id"]] = colors[record["isthing"], record["category_id"]]
    weight = np.where(segment_ids > 0, np.float32(OVERLAY_WEIGHT), np.float32(0))[..., None]
    painted = picture * (1 - weight) + table[segment_ids] * weight
    border = np.zeros(segment_ids.shape, bool)
    border[1:] |= segment_ids[1:] != segment_ids[:-1]
    border[:, 1:] |= segment_ids[:, 1:] != segment_ids[:, :-1]
    painted[border] = 255
    return painted.round().astype(np.uint8)


def main() -> None:
    """Segment one picture and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="what `panseg export --format onnx` wrote")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU; default: all")
    arguments = parser.parse_args()

    model = OnnxPanoptic(arguments.model, arguments.threads)
    with Image.open(arguments.picture) as file:
        picture = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    segment_ids, records = model(picture)

    categories = model.description["categories"]
    names = {(entry["isthing"], entry["id"]): entry["name"] for entry in categories}
    for record in records:
        record["name"] = names[record["isthing"], record["category_id"]]
        print(f"{record['name']:<20} score {record['score']:.3f}  {record['area']} pixels")  # noqa: T201
    arguments.output.mkdir(parents=True, exist_ok=True)
    stem = arguments.picture.stem
    drawn = overlay(picture, segment_ids, records, categories)
    Image.fromarray(drawn).save(arguments.output / f"{stem}_overlay.png")
    # The id is red + 256 green + 65536 blue.
    colors = np.stack([segment_ids & 255, segment_ids >> 8 & 255, segment_ids >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(colors).save(arguments.output / f"{stem}_panoptic.png")
    content = {"file_name": f"{stem}_panoptic.png", "segments_info": records}
    (arguments.output / f"{stem}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
