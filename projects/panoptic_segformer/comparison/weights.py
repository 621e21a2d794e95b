"""Read checkpoints of any project safely, load them, and report how far they fit.

Detectron2's checkpointer loads what has a matching name and only logs the rest; a comparison of half-loaded models
would be worthless, so the fit is counted here and the caller can refuse it.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..checkpoint.loading import read_checkpoint
from ..checkpoint.pickles import read_pickle

__all__ = ["WeightsFit", "load_weights"]

# What models compute themselves, so that checkpoints of other versions may have it or not.
COMPUTED = re.compile(
    r"(^|\.)((relative_position_index|num_batches_tracked|attn_mask)$|(cell_anchors|anchor_generator)\b)"
)
# The parts of a checkpoint that hold the tensors, by project: Detectron2 and DETR, mmdetection.
STATE_KEYS = ("model", "state_dict")
SHOWN_KEYS = 5


@dataclass(frozen=True)
class WeightsFit:
    """How a checkpoint fits a model; tensors that models compute themselves do not count.

    Attributes:
        total: tensors of the model.
        missing: names that the checkpoint lacks.
        unexpected: names that the model lacks.
        reshaped: names that have another shape in the checkpoint.
    """

    total: int
    missing: Sequence[str]
    unexpected: Sequence[str]
    reshaped: Sequence[str]

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model is filled and every one of the checkpoint used."""
        return not (self.missing or self.unexpected or self.reshaped)

    def describe(self) -> str:
        """Return the fit in one line, with the first names of each kind that does not fit."""
        matched = self.total - len(self.missing) - len(self.reshaped)
        parts = [f"{matched} of the model's {self.total} tensors filled"]
        for kind in ("missing", "unexpected", "reshaped"):
            if names := getattr(self, kind):
                more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
                parts.append(f"{len(names)} {kind}: {', '.join(names[:SHOWN_KEYS])}{more}")
        return "; ".join(parts)


def load_weights(model: nn.Module, path: Path, trust: bool = False) -> WeightsFit:
    """Load a checkpoint into a model as Detectron2 does and return how it fits.

    Args:
        model: of any project.
        path: a .pth or .safetensors file, or a .pkl of Detectron2's model zoo.
        trust: whether the file may hold any Python object, which can run code.
    Raises: FileNotFoundError: if there is no such file. ValueError: if it can't be read.
    """
    checkpointer = _ReportingCheckpointer(model, trust)
    checkpointer.load(str(path))
    own = [name for name in model.state_dict() if not COMPUTED.search(name)]
    # Buffers that a model keeps out of its state dict come from its config.
    known = {name for name, _ in model.named_buffers()}
    incompatible = checkpointer.incompatible
    reshaped = [name for name, *_ in incompatible.incorrect_shapes]
    missing = [name for name in incompatible.missing_keys if not COMPUTED.search(name) and name not in reshaped]
    unexpected = [name for name in incompatible.unexpected_keys if not COMPUTED.search(name) and name not in known]
    return WeightsFit(len(own), missing, unexpected, reshaped)


class _ReportingCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with safe reading, that remembers what did not fit."""

    def __init__(self, model: nn.Module, trust: bool) -> None:
        super().__init__(model)
        self._trust = trust

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = _read(Path(filename), self._trust)
        if not isinstance(content, dict):
            raise ValueError(f"checkpoint {filename} holds a {type(content).__name__}, expected a dict of tensors")
        state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
        if not state or not all(isinstance(name, str) for name in state):
            raise ValueError(f"checkpoint {filename} holds no tensors by name, its entries are {list(content)[:5]}")
        hints = {key: content[key] for key in ("matching_heuristics", "__author__") if key in content}
        return {**hints, "model": state}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        self.incompatible = super()._load_model(checkpoint)
        return self.incompatible


def _read(path: Path, trust: bool) -> Any:
    if not trust or path.suffix == ".safetensors":  # which can't hold anything else
        try:
            return read_pickle(path) if path.suffix == ".pkl" else read_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"{error}, or, if you trust who made it, set 'trust: true'") from error
    try:
        if path.suffix == ".pkl":
            with path.open("rb") as file:
                return pickle.load(file, encoding="latin1")
        return torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, EOFError, AttributeError, ImportError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {path} can't be read: {error}; get the file again") from error
