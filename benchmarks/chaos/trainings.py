"""Trainings of seconds in processes of their own, to be broken, and what they leave behind."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_segformer import load_config
from panoptic_segformer.data.synthetic import write_scenes
from panoptic_segformer.training.trainer import PanopticTrainer

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/synthetic/panoptic_segformer_lite0.yaml"
NUM_SCENES, SCENE_SIZE = 8, (64, 80)
MAX_ITER = 12
FINAL = "model_final.pth"
NODE = "MODEL.PANOPTIC_SEGFORMER"
# A model that is small but has every part, with dropout and augmentation, so that random numbers matter.
SETTINGS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.NAME": "test_efficientnet",
    "MODEL.TIMM.WEIGHTS": "",
    f"{NODE}.EMBED_DIM": "32",
    f"{NODE}.NUM_HEADS": "4",
    f"{NODE}.FEEDFORWARD_DIM": "32",
    f"{NODE}.ENCODER.NUM_LAYERS": "1",
    f"{NODE}.LOCATION_DECODER.NUM_LAYERS": "1",
    f"{NODE}.LOCATION_DECODER.NUM_QUERIES": "12",
    f"{NODE}.MASK_DECODER.NUM_THING_BLOCKS": "1",
    f"{NODE}.MASK_DECODER.NUM_STUFF_BLOCKS": "1",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "DATALOADER.NUM_WORKERS": "1",
    "DATASETS.TEST": "()",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": str(MAX_ITER),
    "SOLVER.STEPS": "()",
    "SOLVER.CHECKPOINT_PERIOD": "2",
    "SOLVER.EMA_DECAY": "0.5",
    "SEED": "1",
}


@dataclass(frozen=True)
class Row:
    """One kind of fault: how often it was tried, how often all was well, and what was lost otherwise."""

    fault: str
    tried: int
    expected: str
    losses: Sequence[str] = field(default_factory=tuple)


@dataclass
class Ended:
    """How a training's process ended: its exit code (negative for a signal) and what it wrote to stderr."""

    code: int
    text: str


def prepare(folder: Path) -> None:
    """Write the scenes that all trainings see."""
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    write_scenes(folder / "synthetic_scenes/train", NUM_SCENES, seed=1, size=SCENE_SIZE)


def config(output_dir: Path, **changes: str) -> CfgNode:
    """Return the config of a training; changes have __ in the place of dots."""
    settings = {**SETTINGS, "OUTPUT_DIR": str(output_dir), **{key.replace("__", "."): v for key, v in changes.items()}}
    return load_config(CONFIG, [word for pair in settings.items() for word in pair])


def train(cfg: CfgNode, prepare_trainer: Callable[[PanopticTrainer], None] = lambda trainer: None) -> None:
    """Train in this process, going on where an earlier training in the folder stopped."""
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=True)
    prepare_trainer(trainer)
    trainer.train()


def start(work: Callable[[], None], log: Path) -> int:
    """Run work in a process of its own, the leader of a process group, and return its pid; output goes to the log."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        work()
        code = 0
    except SystemExit as request:
        code = int(request.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, log: Path) -> Ended:
    """Wait for a process and return how it ended."""
    _, status = os.waitpid(pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))


def run(work: Callable[[], None], log: Path) -> Ended:
    """Run work in a process of its own to its end."""
    return wait(start(work, log), log)


def differences(folder: Path, expected: dict[str, object]) -> list[str]:
    """Return what the final checkpoint in a folder has differently, to the last bit, and half-written files."""
    path = folder / FINAL
    if not path.is_file():
        return [f"{FINAL} is not there"]
    first = _difference(torch.load(path, weights_only=True), expected, "")
    return [*([first] if first else []), *(left.name for left in folder.glob(".*partial*"))]


def _difference(one: object, other: object, where: str) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where}: other keys"
        found = (_difference(one[key], other[key], f"{where}/{key}") for key in one)
        return next((text for text in found if text), "")
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{where}: other length"
        found = (_difference(*pair, f"{where}/{index}") for index, pair in enumerate(zip(one, other, strict=True)))
        return next((text for text in found if text), "")
    is_same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return "" if is_same else where


def forget_scenes() -> None:
    """Let the next training register the scenes anew, from another folder."""
    if "synthetic_train" in DatasetCatalog.list():
        DatasetCatalog.remove("synthetic_train")
        MetadataCatalog.remove("synthetic_train")
