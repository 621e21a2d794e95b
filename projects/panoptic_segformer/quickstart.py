"""The first run: make scenes, train a small Panoptic SegFormer on them, evaluate it, draw what it sees.

Everything is what a user's own training does: a yaml config, registered datasets, the trainer and the evaluators.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_setup

from .data.categories import Categories
from .data.datasets import register_datasets
from .data.reading import read_picture
from .data.synthetic import write_scenes
from .inference.loading import load_predictor, panoptic_only
from .registration import load_config
from .training.run_record import write_run_record
from .training.trainer import PanopticTrainer
from .visualization import draw_example, write_picture
from .writing import whole_file

__all__ = ["run_quickstart"]

logger = logging.getLogger(__name__)

DATA_FOLDER = "synthetic_scenes"
SCENE_SIZE = (192, 256)
# Name of the split, number of scenes, seed.
SPLITS = (("train", 400, 1), ("val", 60, 2))
# Scenes of the validation split in the picture.
SHOWN = (3, 7, 11)


def run_quickstart(config_file: str | Path, output_dir: str | Path) -> dict[str, float]:
    """Train and evaluate on synthetic scenes and return the metrics, which also go to output_dir/metrics.json.

    Args:
        config_file: a config on the datasets synthetic_train and synthetic_val; the scenes are written to
            $DETECTRON2_DATASETS/synthetic_scenes (default ./datasets) unless they are there.
        output_dir: receives metrics.json, panoptic.png (input, truth, prediction) and the folder `training`.
    """
    output_dir = Path(output_dir)
    for split, number, seed in SPLITS:
        folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / DATA_FOLDER / split
        write_scenes(folder, number, seed, SCENE_SIZE)
    training_dir = output_dir / "training"
    cfg = load_config(config_file, ["OUTPUT_DIR", str(training_dir), "SEED", "1"])
    cfg.freeze()
    default_setup(cfg, argparse.Namespace(config_file=str(config_file), eval_only=False))
    write_run_record(cfg, training_dir, resume=False)
    register_datasets(cfg)
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    metrics = {f"{task}/{name}": value for task, values in results.items() for name, value in values.items()}
    _write_json(metrics, output_dir / "metrics.json")
    final = panoptic_only(cfg)
    final.MODEL.WEIGHTS = str(training_dir / "model_final.pth")
    picture = _draw_examples(final)
    write_picture(picture, output_dir / "panoptic.png")
    return metrics


def _draw_examples(cfg: Any) -> np.ndarray:
    """Return rows of input, truth and prediction for some scenes: (H, W, 3) uint8 RGB."""
    name = cfg.DATASETS.TEST[0]
    categories = Categories.from_metadata(MetadataCatalog.get(name))
    predictor = load_predictor(cfg)
    dataset = DatasetCatalog.get(name)
    rows = []
    for record in (dataset[index] for index in SHOWN):
        result = predictor(read_picture(record["file_name"], "BGR"))
        rows.append(draw_example(record, result["panoptic_seg"], categories))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)


def _write_json(content: dict[str, float], path: Path) -> None:
    # Measures of classes or sizes that do not occur are NaN, which json has no word for.
    finite = {key: value if math.isfinite(value) else None for key, value in content.items()}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(finite, sort_keys=True) + "\n", encoding="utf-8")
