"""Files that would run code when they are loaded: refused, and nothing ran."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from trainings import CONFIG, Row, config, run, train

from panoptic_segformer import load_config


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def load_traps(folder: Path) -> Row:
    """Give traps as weights, as the last checkpoint, as a bare backbone and as a config."""
    log, losses = folder / "log.txt", []
    for name in ("weights", "last checkpoint", "pickle", "config"):
        mark, output = folder / f"ran_{name}".replace(" ", "_"), folder / name.replace(" ", "_")
        output.mkdir()
        code = run(lambda name=name, output=output, mark=mark: _load(name, output, mark), log).code
        if code == 0 or mark.exists():
            losses.append(f"{name}: {'code ran' if mark.exists() else 'taken for good'}")
    fault = "files that run code when loaded, as weights, last checkpoint, pickle, config"
    return Row(fault, 4, "refused, nothing ran", losses)


def _load(name: str, output: Path, mark: Path) -> None:
    trap = output / "trap.pth"
    if name == "weights":
        torch.save({"model": _Trap(mark)}, trap)
        train(config(output, MODEL__WEIGHTS=str(trap)))
    elif name == "last checkpoint":
        torch.save({"model": _Trap(mark), "trainer": {}}, output / "model_0000001.pth")
        (output / "last_checkpoint").write_text("model_0000001.pth")
        train(config(output))
    elif name == "pickle":
        trap = output / "trap.pkl"
        trap.write_bytes(pickle.dumps({"model": _Trap(mark), "__author__": "x"}))
        train(config(output, MODEL__WEIGHTS=str(trap)))
    else:
        path = output / "trap.yaml"
        path.write_text(f"_BASE_: {CONFIG}\nOUTPUT_DIR: !!python/object/apply:os.mkdir ['{mark}']\n")
        load_config(path)
