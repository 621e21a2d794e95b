"""One step of a training: the parts of its batch, its precision, what is checked before weights change, what is logged.

Detectron2 has a loop for full and one for mixed precision, without parts, and asks the GPU for every loss on its own.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..data.loading import Example, TrainingLoader
from ..seeding import seed_by
from .numerics import NonFiniteError, Step, gradient_norms, write_reproduction
from .ranks import mean_over_ranks, part_of_batch

__all__ = ["LoopOptions", "TrainingLoop"]

logger = logging.getLogger(__name__)

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoopOptions:
    """How steps are computed.

    Attributes:
        num_parts: a batch is computed in so many parts.
        precision: of mixed precision; None = full precision.
        max_skipped: steps that may be left out because their numbers are not finite.
        output_dir: where a report of such a step is written.
        config: the whole config as yaml, for the report.
    """

    num_parts: int
    precision: torch.dtype | None
    max_skipped: int
    output_dir: Path
    config: str

    @classmethod
    def of(cls, cfg: CfgNode) -> LoopOptions:
        """Return the options of a config.

        Raises: ValueError: if a process's share of the batch does not divide into the parts, or the precision is
            unknown.
        """
        solver, own_batch = cfg.SOLVER, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        if solver.ACCUMULATE_STEPS < 1 or own_batch % solver.ACCUMULATE_STEPS:
            raise ValueError(
                f"SOLVER.ACCUMULATE_STEPS is {solver.ACCUMULATE_STEPS}, but each process has {own_batch} pictures a "
                "step (SOLVER.IMS_PER_BATCH over the number of processes): set it to a divisor of that"
            )
        if solver.AMP.PRECISION not in PRECISIONS:
            known = " or ".join(map(repr, PRECISIONS))
            raise ValueError(f"SOLVER.AMP.PRECISION is {solver.AMP.PRECISION!r}: set it to {known}")
        precision = PRECISIONS[solver.AMP.PRECISION] if solver.AMP.ENABLED else None
        output_dir = Path(cfg.OUTPUT_DIR)
        return cls(solver.ACCUMULATE_STEPS, precision, solver.MAX_SKIPPED_STEPS, output_dir, cfg.dump())


class TrainingLoop(SimpleTrainer):
    """Takes the steps of a training.

    Random numbers of a step depend on the seed, its iteration and the process alone (seeding.py), so that whatever runs
    between two steps, and an interruption too, changes nothing.
    """

    data_loader: TrainingLoader

    def __init__(
        self,
        model: nn.Module,
        data_loader: TrainingLoader,
        optimizer: torch.optim.Optimizer,
        seed: int,
        options: LoopOptions,
        ema: AveragedModel | None = None,
    ) -> None:
        """Take the parts.

        Args:
            model: returns losses by name; may be wrapped for several processes.
            data_loader: of this process's batches.
            optimizer: of the model.
            seed: of the training, the same in all processes.
            options: how steps are computed.
            ema: of the weights, updated after each step.
        """
        super().__init__(model, data_loader, optimizer)
        self.seed, self.options, self.ema = seed, options, ema
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=options.precision == torch.float16)
        self.num_skipped = 0
        # Set by whoever wants the training to stop after the step (interruption.py); then all processes agree.
        self.wants_stop = False
        self.must_stop = False

    @property
    def plain_model(self) -> nn.Module:
        """The model without the wrapper for several processes."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def run_step(self) -> None:
        """Take one step.

        Raises: NonFiniteError: if losses, matching costs or gradients are not finite; the weights are those before.
        """
        started = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - started
        seed_by(self.seed, self.iter, comm.get_rank())
        self.optimizer.zero_grad()
        try:
            losses = self._backward(batch)
        except FloatingPointError as error:  # of the matching; the other processes don't know
            if comm.get_world_size() > 1 or not self._may_skip():
                raise self._failure(batch, {}, str(error)) from error
            return
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        values = self._shared(losses, norm, data_time)
        checked = {name: values[name] for name in losses}
        # Overflown gradients are part of scaling losses: the scaler leaves the step out and scales less.
        if not self.grad_scaler.is_enabled():
            checked["grad_norm"] = values["grad_norm"]
        if not all(map(math.isfinite, checked.values())):
            if not self._may_skip():
                raise self._failure(batch, checked, "a loss or the gradient is not finite")
            return
        self._log(values, losses)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.plain_model)

    def _backward(self, batch: list[Example]) -> dict[str, Tensor]:
        """Compute the gradients of a batch, part by part, and return its losses."""
        number = self.options.num_parts
        size = len(batch) // number
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        totals: dict[str, Tensor] = {}
        for part, normalisers in zip(parts, self._normalisers(parts), strict=True):
            is_last = part is parts[-1]
            with normalisers, contextlib.nullcontext() if is_last else self._unsynchronised():
                with self._autocast():
                    losses = self.model(part)
                self.grad_scaler.scale(sum(losses.values()) / number).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach() / number
        return totals

    def _normalisers(self, parts: Sequence[list[Example]]) -> Iterator[contextlib.AbstractContextManager[None]]:
        """Return, for each part, a context in which the losses of a model that counts have the batch's normalisers."""
        count = getattr(self.plain_model, "count_targets", None)
        if len(parts) == 1 or count is None:
            return (contextlib.nullcontext() for _ in parts)
        sums = [sum(numbers) / len(parts) for numbers in zip(*map(count, parts), strict=True)]
        means = mean_over_ranks(sums, self.device)
        return (part_of_batch(means) for _ in parts)

    def _autocast(self) -> torch.autocast:
        precision = self.options.precision
        return torch.autocast(self.device.type, precision, enabled=precision is not None)

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        is_wrapped = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if is_wrapped else contextlib.nullcontext()

    def _shared(self, losses: dict[str, Tensor], norm: Tensor, data_time: float) -> dict[str, float]:
        """Return losses, gradient norm and seconds of waiting for data, means over the processes, in one transfer."""
        others = torch.tensor([data_time, float(self.wants_stop)], device=self.device)
        packed = torch.cat([torch.stack([*losses.values(), norm]).float(), others])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(packed)
            packed /= comm.get_world_size()
        *values, stop = packed.tolist()
        self.must_stop = stop > 0
        return dict(zip([*losses, "grad_norm", "data_time"], values, strict=True))

    def _log(self, values: dict[str, float], losses: dict[str, Tensor]) -> None:
        storage = get_event_storage()
        for name, value in values.items():
            if math.isfinite(value):
                storage.put_scalar(name, value)
        storage.put_scalar("total_loss", sum(values[name] for name in losses))
        if self.num_skipped:
            storage.put_scalar("skipped_steps", self.num_skipped)
        if self.grad_scaler.is_enabled():
            storage.put_scalar("loss_scale", self.grad_scaler.get_scale())

    def _may_skip(self) -> bool:
        """Count a step that is left out, and return whether it may be."""
        if self.num_skipped >= self.options.max_skipped:
            return False
        self.num_skipped += 1
        if self.grad_scaler.is_enabled():
            self.grad_scaler.update(self.grad_scaler.get_scale())  # it has seen gradients of which no step was made
        message = "left out the step of iteration %d, whose numbers are not finite: number %d of at most %d"
        logger.warning(message, self.iter, self.num_skipped, self.options.max_skipped)
        return True

    def _failure(self, batch: list[Example], losses: dict[str, float], reason: str) -> NonFiniteError:
        """Write the report of a step and return its error."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        norms = gradient_norms(self.plain_model)
        step = Step(self.iter, self.seed, comm.get_rank(), batch, losses, rates, norms)
        path = self.options.output_dir / f"not_finite_{self.iter:07d}_rank{comm.get_rank()}.pth"
        write_reproduction(path, step, self.plain_model, self.options.config)
        return NonFiniteError(
            f"{reason} ({step.description()}). No step was made of it: look at these pictures, lower SOLVER.BASE_LR or "
            "raise SOLVER.WARMUP_ITERS, clip the gradient (SOLVER.CLIP_GRADIENTS), or train without SOLVER.AMP; "
            "SOLVER.MAX_SKIPPED_STEPS leaves some such steps out"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a continued training needs, but for the weights."""
        own = {"seed": self.seed, "num_skipped": self.num_skipped, "grad_scaler": self.grad_scaler.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a training stopped; files of Detectron2's own loops have no seed, so the config's stays."""
        super().load_state_dict(state_dict)
        self.seed, self.num_skipped = state_dict.get("seed", self.seed), state_dict.get("num_skipped", 0)
        if self.grad_scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
