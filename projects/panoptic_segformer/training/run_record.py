"""What one needs to repeat a training, in run.json of the output folder; each start has its own entry.

Detectron2 writes the config alone. Here are also the command, the seed, versions and devices, the state of the source
and a hash of the data, and a resumed training is told what has changed since.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..data.datasets import PanopticPaths, configured_paths
from ..environment import collect_facts
from ..writing import whole_file

__all__ = ["RUN_FILE", "dataset_hash", "find_changes", "read_runs", "source_state", "write_run_record"]

RUN_FILE = "run.json"
# Keys that say where, how long and how closely watched, but not what is learned.
FREE_KEYS = (
    "OUTPUT_DIR",
    "SOLVER.MAX_ITER",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "TEST.VALIDATION_PICTURES",
    "VIS_PERIOD",
)
HASH_COVERS = "content of the json; names and sizes of all files in the folders of pictures and of png"

logger = logging.getLogger(__name__)


def write_run_record(cfg: CfgNode, output_dir: str | Path, resume: bool) -> None:
    """Write run.json, or add an entry to it where a training is resumed; does nothing but in the main process.

    What a resumed training has otherwise than at its last start is logged as a warning.

    Args:
        cfg: the config, its SEED the one that is used.
        output_dir: a folder that exists.
        resume: whether the training goes on from a checkpoint.
    """
    if not comm.is_main_process():
        return
    path = Path(output_dir) / RUN_FILE
    earlier = read_runs(output_dir) if resume else []
    run = _describe(cfg, resume)
    if earlier and (changes := find_changes(earlier[-1], run)):
        logger.warning(
            "this training is resumed otherwise than it was started (%s): %s",
            earlier[-1]["date"],
            "; ".join(changes),
        )
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"runs": [*earlier, run]}, indent=1) + "\n", encoding="utf-8")


def read_runs(output_dir: str | Path) -> list[dict[str, Any]]:
    """Return the entries of run.json, oldest first; none if it is not there, or (with a warning) is broken."""
    path = Path(output_dir) / RUN_FILE
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["runs"])
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("%s can't be read (%r): it is written anew", path, error)
        return []


def find_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs between two entries and matters for what is learned, each as "name: before -> after"."""
    changes = []
    for key in ("world_size", "source"):
        changes += _differences({key: before[key]}, {key: after[key]})
    changes += _differences(before["environment"], after["environment"])
    old, new = (
        {key: value for key, value in _flatten(run["config"]) if key not in FREE_KEYS} for run in (before, after)
    )
    changes += _differences(old, new)
    hashes = ({f"data of {name}": entry for name, entry in run["data"].items()} for run in (before, after))
    return changes + _differences(*hashes)


def dataset_hash(paths: PanopticPaths) -> str:
    """Return the SHA-256 of a dataset, of its json's content and of its files' names and sizes, in hexadecimal.

    Pictures aren't read, so one that is exchanged for another of the same number of bytes goes unnoticed.
    Raises: OSError: if something of it is missing.
    """
    with open(paths.panoptic_json, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for folder in (paths.image_root, paths.panoptic_root):
        digest.update(b"\nfolder\n")
        for name, size in _files(Path(folder)):
            digest.update(f"{name}\t{size}\n".encode())
    return digest.hexdigest()


def source_state(folder: Path) -> dict[str, Any] | None:
    """Return the git commit of a file's folder and whether tracked files differ from it.

    None where git does not know the folder: an installed package may lie inside somebody else's repository.
    """
    if not _git(folder, "ls-files", "."):
        return None
    is_changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(folder, "rev-parse", "HEAD"), "is_changed": bool(is_changed)}


def _describe(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "is_resumed": resume,
        "command": shlex.join(sys.argv),
        "seed": cfg.SEED,
        "world_size": comm.get_world_size(),
        "source": source_state(Path(__file__).resolve().parent),
        "environment": {fact.name: fact.value for fact in collect_facts()},
        "data_hash_covers": HASH_COVERS,
        "data": {name: _describe_data(cfg, name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)},
        "config": yaml.safe_load(cfg.dump()),
    }


def _describe_data(cfg: CfgNode, name: str) -> str:
    """Return a dataset's hash, or why it has none: what is missing is told by whatever needs it."""
    try:
        return dataset_hash(configured_paths(cfg, name))
    except (OSError, ValueError) as error:
        return f"unknown: {error}"


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the path inside the folder and the size in bytes of every file, in the order of the names."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            yield path.relative_to(folder).as_posix(), path.stat().st_size


def _raise(error: OSError) -> NoReturn:
    raise error


def _git(folder: Path, *words: str) -> str:
    """Return what git prints; nothing where there is no git, or it has an error to tell."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a nested mapping in their dotted form, with their values."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = [*before, *(name for name in after if name not in before)]
    return [f"{name}: {before.get(name)} -> {after.get(name)}" for name in names if before.get(name) != after.get(name)]
