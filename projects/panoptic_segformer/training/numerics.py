"""What is said and kept of a step whose numbers are not finite.

Detectron2 stops with the losses alone, after the optimizer has made weights of them. Here the step is not taken, the
message says what to look at, and a file holds what is needed to compute the step again (`panseg reproduce`).
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from ..writing import whole_file

__all__ = ["NonFiniteError", "Step", "gradient_norms", "write_reproduction"]

logger = logging.getLogger(__name__)

SHOWN_PICTURES = 16


class NonFiniteError(FloatingPointError):
    """A loss, a matching cost or a gradient is infinite or not a number."""


@dataclass(frozen=True)
class Step:
    """One step of a training, as its report shows it.

    Attributes:
        iteration: its number; seed: of the training; rank: of the process.
        examples: the process's batch.
        losses: by name, of the whole batch; empty if they were not reached.
        rates: learning rates of the parameter groups.
        norms: of the gradient by module.
    """

    iteration: int
    seed: int
    rank: int
    examples: Sequence[Mapping[str, Any]]
    losses: Mapping[str, float]
    rates: Sequence[float]
    norms: Mapping[str, float]

    def description(self) -> str:
        """Return a paragraph that names what is not finite, the pictures, the learning rates and the norms."""
        terms = [name for name, value in self.losses.items() if not math.isfinite(value)]
        pictures = [str(example.get("image_id", example.get("file_name"))) for example in self.examples]
        more = f" and {len(pictures) - SHOWN_PICTURES} more" if len(pictures) > SHOWN_PICTURES else ""
        parts = [
            f"iteration {self.iteration}, rank {self.rank}",
            f"not finite: {', '.join(terms)}" if terms else "all losses that were reached are finite",
            f"picture ids: {', '.join(pictures[:SHOWN_PICTURES])}{more}",
            f"learning rates: {', '.join(f'{rate:.3g}' for rate in sorted(set(self.rates), reverse=True))}",
        ]
        if self.norms:
            norms = (f"{module} {norm:.3g}" for module, norm in self.norms.items())
            parts.append(f"gradient norm by module: {', '.join(norms)}")
        return "; ".join(parts)


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Return the L2 norm of the gradient of each part of a model (its direct children)."""
    gradients: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name.partition(".")[0]].append(parameter.grad)
    return {module: float(nn.utils.get_total_norm(own)) for module, own in gradients.items()}


def write_reproduction(path: Path, step: Step, model: nn.Module, config: str) -> None:
    """Write the step with the weights before it, for `panseg reproduce`; read with weights_only.

    Args:
        path: the file, which is complete or not there.
        step: the step.
        model: with the weights.
        config: the whole config as yaml.
    """
    content = {
        "iteration": step.iteration,
        "seed": step.seed,
        "rank": step.rank,
        "losses": dict(step.losses),
        "config": config,
        "model": model.state_dict(),
        "examples": [_plain(example) for example in step.examples],
    }
    try:
        with whole_file(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:  # torch has the latter for a full disk
        logger.error("the step could not be written to %s: %s", path, error)
    else:
        logger.error("wrote the step to %s; `panseg reproduce %s` computes it again", path, path)


def _plain(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return an example without classes of Detectron2, which torch does not load from a file."""
    plain = {}
    for name, value in example.items():
        if isinstance(value, Instances):
            fields = {key: getattr(field, "tensor", field) for key, field in value.get_fields().items()}
            plain[name] = {"image_size": list(value.image_size), **fields}
        elif isinstance(value, Tensor | str | int | float):
            plain[name] = value
    return plain
