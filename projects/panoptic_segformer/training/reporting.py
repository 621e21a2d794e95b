"""Figures of every step beside the losses of each layer: sums of losses, speed, memory and learning rates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from ..profiling.memory import MemoryUnknownError, most_resident_bytes

__all__ = ["LOSSES", "SEGMENTS", "StepReport", "group_losses"]

MEBI = 2**20
PREFIX = "loss_"
# ... and of their sums.
LOSSES = "losses/"
# Words of other models' losses and the term that they belong to.
TERMS = {"ce": "class", "cls": "class", "bbox": "box", "dice": "mask"}
# Words of losses that belong to things or to stuff.
SEGMENTS = {"thing": "things", "th": "things", "stuff": "stuff", "st": "stuff"}
# ... and to both.
JOINT = "joint"


def group_losses(losses: Mapping[str, float]) -> dict[str, float]:
    """Return sums of losses by term (class, box, giou, mask, ...) and by what they are of (things, stuff).

    The names tell: loss_<term>_<things or stuff>_<layer>. Where some losses are of things or stuff by their names,
    those without such a word are of things, the location decoder's; unless queries are joint, which find both.

    Args:
        losses: by name; those that don't start with loss_ count nowhere.
    """
    named = {name: name.removeprefix(PREFIX).split("_") for name in losses if name.startswith(PREFIX)}
    kinds = {name: _kind(words) for name, words in named.items()}
    has_kinds = any(kinds.values()) and not any(JOINT in words for words in named.values())
    sums: dict[str, float] = defaultdict(float)
    for name, words in named.items():
        sums[TERMS.get(words[0], words[0])] += losses[name]
        if has_kinds:
            sums[kinds[name] or SEGMENTS["thing"]] += losses[name]
    return dict(sums)


def _kind(words: Iterable[str]) -> str | None:
    return next((SEGMENTS[word] for word in words if word in SEGMENTS), None)


class StepReport(HookBase):
    """Puts figures of each step into the event storage; for the main process, which alone has the losses.

    - losses/<term>, losses/things, losses/stuff: sums over layers, see `group_losses`;
    - pictures_per_second: of all processes together; data_share: part of the time that was spent waiting for data;
    - memory_mb: the most so far, in MiB: torch's on this process's GPU, or all that the process had resident;
    - learning_rates/<factor>: of the parameters whose rate is that factor times SOLVER.BASE_LR at the start.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Keep what is known beforehand.

        Args:
            cfg: the config as the training uses it, scaled to the number of processes.
        """
        self._pictures = cfg.SOLVER.IMS_PER_BATCH
        self._base_rate = cfg.SOLVER.BASE_LR

    def before_step(self) -> None:
        """Put the learning rates that the step uses."""
        for group in self.trainer.optimizer.param_groups:
            factor = group.get("initial_lr", group["lr"]) / self._base_rate
            self.trainer.storage.put_scalar(f"learning_rates/{factor:.4g}", group["lr"], smoothing_hint=False)

    def after_step(self) -> None:
        """Put everything else."""
        storage = self.trainer.storage
        new = {name: value for name, (value, iteration) in storage.latest().items() if iteration == storage.iter}
        for name, value in group_losses(new).items():
            storage.put_scalar(f"{LOSSES}{name}", value)
        if "time" in new:  # Detectron2 leaves out the first iterations.
            storage.put_scalar("pictures_per_second", self._pictures / new["time"])
            storage.put_scalar("data_share", min(1.0, new.get("data_time", 0.0) / new["time"]))
        memory = _most_memory()
        if memory is not None:
            storage.put_scalar("memory_mb", memory / MEBI, smoothing_hint=False)


def _most_memory() -> int | None:
    """Return the most memory in bytes that was in use so far; None where the system does not tell."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        return most_resident_bytes()
    except MemoryUnknownError:
        return None
