"""Writing the checkpoints of a training so that a good one is always there, and finding it again.

Detectron2 writes under the final name: who is interrupted then has lost the file, and a full disk ends the training. It
also runs the code in some files, and none is run here.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..writing import whole_file
from .download import is_on_the_web, local_copy
from .loading import read_checkpoint, read_own_checkpoint
from .pickles import read_pickle

__all__ = ["PanopticCheckpointer", "write_checkpoint"]

logger = logging.getLogger(__name__)

# The file with the name of the last checkpoint, by Detectron2's convention, and the names of checkpoints.
TAG = "last_checkpoint"
FINAL = "model_final"
_NUMBERED = re.compile(r"model_(\d+)\.pth")


class PanopticCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer whose files are complete or not there, and whose errors name the file.

    A checkpoint that can't be written is an error in the log, and the training goes on; only the final one raises. A
    last checkpoint that can't be read makes way for the one before.
    """

    def load(self, path: str, *args: object, **kwargs: object) -> dict[str, object]:
        """Load a file or address as Detectron2 does; what comes from the web comes as `local_copy` says."""
        if path and is_on_the_web(path):
            query = urlparse(path).query  # It is for Detectron2: ?matching_heuristics=True
            path = f"{local_copy(path)}{'?' * bool(query)}{query}"
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, object]:
        if filename.endswith(".pkl"):
            return _zoo_content(read_pickle(Path(filename)))
        if filename.endswith(".pyth"):
            read_checkpoint(filename)  # Detectron2 reads it as safely, but does not say what is wrong.
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> dict[str, object]:
        return read_own_checkpoint(f)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write a checkpoint NAME.pth of the model, everything that is kept with it, and more.

        Raises: OSError: if the final one can't be written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        kept = {key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **kept, **kwargs}
        path = Path(self.save_dir, f"{name}.pth")
        try:
            write_checkpoint(path, content)
            self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as error:  # torch has the latter for a full disk
            message = (
                f"checkpoint {path} could not be written ({error}); earlier ones in the folder are as they were: make "
                "space, or make the folder writable"
            )
            if name == FINAL:
                raise OSError(message) from error
            logger.error("%s; the training goes on, and the next period tries again", message)
        else:
            logger.info("wrote checkpoint %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which checkpoint is the last one."""
        with whole_file(Path(self.save_dir, TAG)) as partial:
            partial.write_text(last_filename_basename, encoding="utf-8")

    def has_checkpoint(self) -> bool:
        """Return whether the folder has checkpoints of a training."""
        return bool(self._candidates())

    def get_checkpoint_file(self) -> str:
        """Return the last checkpoint that can be read, "" if there is none; those passed over are warnings."""
        for path in self._candidates():
            fault = self._fault(path)
            if not fault:
                return str(path)
            logger.warning("passing over a checkpoint: %s", fault)
        return ""

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continue with the last checkpoint that can be read, or load weights alone.

        Args:
            path: weights for a training that starts anew.
            resume: whether to continue if there is a checkpoint.

        Returns: what the file has beside model and checkpointables.
        Raises: ValueError: if none of the checkpoints can be read; as `read_checkpoint` for `path`.
        """
        candidates = self._candidates() if resume else []
        if not candidates:
            return self.load(path, checkpointables=[])
        last = self.get_checkpoint_file()
        if not last:
            raise ValueError(
                f"none of the {len(candidates)} checkpoints in {self.save_dir} serves, the last one because: "
                f"{self._fault(candidates[0])}. Remove them, or start anew without --resume in another OUTPUT_DIR"
            )
        return self.load(last)

    def _candidates(self) -> list[Path]:
        """Return the checkpoints of the folder, the last one first."""
        folder = Path(self.save_dir)
        numbered = sorted(
            (path for path in folder.glob("model_*.pth") if _NUMBERED.fullmatch(path.name)),
            key=lambda path: int(_NUMBERED.fullmatch(path.name)[1]),
            reverse=True,
        )
        try:
            tagged = folder / (folder / TAG).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return numbered
        return [path for path in dict.fromkeys([tagged, *numbered]) if path.parent == folder and path.is_file()]

    def _fault(self, path: Path) -> str:
        """Return why a training can't go on from a checkpoint, "" if it can."""
        try:
            _check_sums(path)
            content = read_own_checkpoint(path)
        except ValueError as error:
            return str(error)
        needed = {"model", "trainer"} if "trainer" in self.checkpointables else {"model"}
        missing = ", ".join(sorted(needed - set(content)))
        return f"checkpoint {path} has no {missing}" if missing else ""


def _zoo_content(content: dict[str, object]) -> dict[str, object]:
    """Return what Detectron2 makes of a file of its model zoo; those of Caffe2 have other names for tensors."""
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)
    tensors = {name: tensor for name, tensor in blobs.items() if not name.endswith("_momentum")}
    return {"model": tensors, "__author__": "Caffe2", "matching_heuristics": True}


def _check_sums(path: Path) -> None:
    """Compare the checksums in a checkpoint with its content, which torch does not do.

    Raises: ValueError: if one differs.
    """
    if not zipfile.is_zipfile(path):
        return  # read_own_checkpoint says what it is
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    if damaged:
        raise ValueError(f"checkpoint {path} is damaged: the checksum of {damaged} is wrong")


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint that is complete on the disk before it has its name.

    Raises: OSError, RuntimeError: if the disk is full or the folder not writable; then nothing is left behind.
    """
    for left_over in path.parent.glob(f".{path.stem}.*.partial.pth"):  # of a process that was killed
        left_over.unlink(missing_ok=True)
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
