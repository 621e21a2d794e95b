"""Computing a step again whose numbers were not finite, from the file that the training wrote of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..config import load_config
from ..seeding import seed_by
from .numerics import gradient_norms

__all__ = ["Reproduction", "load_examples", "reproduce"]

_KEYS = {"config", "model", "examples", "seed", "iteration", "rank"}


@dataclass(frozen=True)
class Reproduction:
    """A step that was computed again.

    Attributes:
        losses: by name; empty where the computation did not come so far.
        norms: of the gradient by module.
        first_module: the first one whose output is not finite, "" if all are.
        error: what ended the computation, "" if it came to its end.
    """

    losses: Mapping[str, float]
    norms: Mapping[str, float]
    first_module: str
    error: str

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return not self.error and all(map(math.isfinite, (*self.losses.values(), *self.norms.values())))


def reproduce(content: Mapping[str, Any], device: str = "cpu") -> Reproduction:
    """Compute the losses and gradients of a file that `write_reproduction` wrote, in full precision.

    Args:
        content: of the file.
        device: where to compute.

    Raises: ValueError: if the file is none of these.
    """
    if missing := _KEYS - set(content):
        lacking = ", ".join(sorted(missing))
        raise ValueError(f"the file lacks {lacking}: give one that a training wrote (not_finite_*.pth)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(content["config"], encoding="utf-8")
        cfg = load_config(path, ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", "MODEL.TIMM.WEIGHTS", ""])
    model = build_model(cfg)
    model.load_state_dict(content["model"], strict=True)
    model.train()
    not_finite: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(partial(_note_output, not_finite, name))
    seed_by(content["seed"], content["iteration"], content["rank"])
    losses, error = {}, ""
    try:
        losses = model(load_examples(content))
        sum(losses.values()).backward()
    except FloatingPointError as failure:
        error = str(failure)
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    return Reproduction(values, gradient_norms(model), next(iter(not_finite), ""), error)


def _note_output(names: list[str], name: str, module: nn.Module, inputs: object, output: object) -> None:
    del module, inputs
    tensors = [value for value in tree_leaves(output) if isinstance(value, Tensor) and value.is_floating_point()]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        names.append(name)


def load_examples(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the batch of a file that `write_reproduction` wrote, given its content."""
    return [
        {name: _instances(value) if isinstance(value, dict) else value for name, value in example.items()}
        for example in content["examples"]
    ]


def _instances(fields: Mapping[str, Any]) -> Instances:
    wrappers = {"gt_boxes": Boxes, "gt_masks": BitMasks}
    own = {key: wrappers.get(key, lambda tensor: tensor)(value) for key, value in fields.items() if key != "image_size"}
    return Instances(tuple(fields["image_size"]), **own)
