"""The smallest model that is still complete: config overrides for runs of seconds."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from detectron2.data import DatasetCatalog, MetadataCatalog


def tiny_overrides(output_dir: Path) -> list[str]:
    node = "MODEL.PANOPTIC_SEGFORMER"
    pairs = {
        "MODEL.DEVICE": "cpu",
        "MODEL.TIMM.NAME": "test_efficientnet",  # timm's model for tests
        "MODEL.TIMM.WEIGHTS": "",
        f"{node}.EMBED_DIM": "32",
        f"{node}.NUM_HEADS": "4",
        f"{node}.FEEDFORWARD_DIM": "32",
        f"{node}.ENCODER.NUM_LAYERS": "1",
        f"{node}.LOCATION_DECODER.NUM_LAYERS": "2",
        f"{node}.LOCATION_DECODER.NUM_QUERIES": "20",
        f"{node}.MASK_DECODER.NUM_THING_BLOCKS": "1",
        f"{node}.MASK_DECODER.NUM_STUFF_BLOCKS": "1",
        "INPUT.MIN_SIZE_TRAIN": "(96,)",
        "INPUT.MIN_SIZE_TEST": "96",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.MAX_ITER": "3",
        "SOLVER.STEPS": "()",
        "OUTPUT_DIR": str(output_dir / "output"),
    }
    return words(pairs)


def words(overrides: Mapping[str, str]) -> list[str]:
    """Return config overrides as they stand on a command line: KEY VALUE KEY VALUE ..."""
    return [word for pair in overrides.items() for word in pair]


def forget_scenes() -> None:
    """Unregister the synthetic scenes: the next test has them in another folder."""
    for name in ("synthetic_train", "synthetic_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def import_train_net() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("train_net", Path(__file__).resolve().parent.parent / "train_net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
