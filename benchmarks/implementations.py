"""What the benchmark of multi-scale deformable attention compares: ours, its PyTorch definition, and others.

The others are optional. One that can't run here is left out with a reason, which the benchmark prints.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from cases import Inputs, attention_weights, sampling_locations
from torch import Tensor

from panoptic_segformer.ops import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_reference

__all__ = [
    "COMPILED", "DEFINITION", "DETERMINISTIC", "DTYPES", "FROM_LOGITS", "FUSED", "PASSES", "PEER", "SCHEME_2020",
    "SEPARATE", "Contender", "make_contenders", "peer_versions",
]  # fmt: skip

PASSES = ("forward", "forward+backward")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

COMPILED = "compiled"
DETERMINISTIC = "compiled, deterministic"
FUSED = "compiled, fused"
SEPARATE = "compiled, softmax by torch"
DEFINITION = "PyTorch definition"
PEER = "torch-ms-deform-attn"
DEFORMOPS = "deformops"
SCHEME_2020 = "scheme of 2020"
# These start from offsets and logits, the others from locations and weights.
FROM_LOGITS = (FUSED, SEPARATE)

# The signature of 2020: (value, sizes [L, 2], starts [L], locations, weights), all of them tensors.
Operator = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contender:
    """One implementation, ready to run on its inputs.

    Attributes:
        name: the implementation.
        dtype: of value, by its name in torch.
        call: maps `tensors` to [B, Q, M*C].
        tensors: what the implementation reads; those that require a gradient get one.
        grad_output: [B, Q, M*C], the gradient that backward starts from.
        deterministic: whether it runs in torch's deterministic mode.
    """

    name: str
    dtype: str
    call: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    grad_output: Tensor
    deterministic: bool = False

    def passes(self) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
        """Return what can be measured, by name."""
        return dict(zip(PASSES, (self.forward, self.forward_backward), strict=True))

    def forward(self) -> tuple[Tensor, ...]:
        """Return the output alone."""
        with torch.no_grad():
            return (self.call(*self.tensors),)

    def forward_backward(self) -> tuple[Tensor, ...]:
        """Return the output and all gradients."""
        leaves = [tensor for tensor in self.tensors if tensor.requires_grad]
        with _deterministic_mode(self.deterministic):
            output = self.call(*self.tensors)
            gradients = torch.autograd.grad(output, leaves, self.grad_output)
        return output.detach(), *gradients


@contextmanager
def _deterministic_mode(wanted: bool) -> Iterator[None]:
    """Switch torch's deterministic mode on for a while; leave it alone where it isn't wanted."""
    if not wanted:
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def make_contenders(inputs: Inputs, dtypes: list[str], device: str) -> tuple[list[Contender], dict[str, str]]:
    """Return all that can run on a device, and by name why the others can't."""
    contenders = [_definition(inputs.to(device, torch.float32))]
    reasons: dict[str, str] = {}
    casts = {dtype: inputs.to(device, DTYPES[dtype]) for dtype in dtypes}
    for dtype, cast in casts.items():
        contenders += _ours(cast, dtype, device)
    for other in OTHERS:
        if device not in other.devices:
            reasons[other.name] = f"does not run on {device}"
            continue
        try:
            operator = other.load()
            for dtype, cast in casts.items():
                if dtype in other.dtypes:
                    contender = _other(other.name, dtype, operator, cast)
                    contender.forward_backward()  # What was built for another machine fails here at the latest.
                    contenders.append(contender)
        except Exception as error:  # Whatever somebody else's code raises, the others can still be compared.
            reasons[other.name] = f"({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    return contenders, reasons


def peer_versions() -> dict[str, str]:
    """Return the versions of the installed peers by name."""
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: installed[name] for name in (PEER, DEFORMOPS) if name in installed}


def _leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Let tensors ask for gradients."""
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)


def _call_with_pairs(
    operator: Callable[..., Tensor], level_sizes: tuple[tuple[int, int], ...], value: Tensor, *others: Tensor
) -> Tensor:
    """Call an operator of ours, level sizes as pairs."""
    return operator(value, level_sizes, *others)


def _definition(inputs: Inputs) -> Contender:
    """The definition by grid_sample, in float32 only: half precision it computes in float32 too."""
    call = functools.partial(_call_with_pairs, ms_deform_attn_reference, inputs.level_sizes)
    tensors = _leaves(inputs.value, inputs.locations, inputs.weights)
    return Contender(DEFINITION, "float32", call, tensors, inputs.grad_output)


def _ours(inputs: Inputs, dtype: str, device: str) -> list[Contender]:
    """The plain form, the fused form, and what the fused form replaces.

    As in the model the reference points are constants. Beside half precision values the plain form has float32
    locations and weights, the fused one half precision offsets and logits.
    """
    plain = functools.partial(_call_with_pairs, ms_deform_attn, inputs.level_sizes)
    fused = functools.partial(_call_with_pairs, ms_deform_attn_fused, inputs.level_sizes)
    separate = functools.partial(_call_separately, inputs.level_sizes, inputs.cells)
    located = _leaves(inputs.value, inputs.locations, inputs.weights)
    value, offsets, logits = _leaves(inputs.value, inputs.offsets, inputs.logits)
    placed = (value, inputs.reference, offsets, logits)
    contenders = [
        Contender(COMPILED, dtype, plain, located, inputs.grad_output),
        Contender(FUSED, dtype, fused, placed, inputs.grad_output),
        Contender(SEPARATE, dtype, separate, placed, inputs.grad_output),
    ]
    if device == "cuda":  # The CPU's only backward is deterministic.
        contenders.append(Contender(DETERMINISTIC, dtype, plain, located, inputs.grad_output, deterministic=True))
    return contenders


def _call_separately(
    level_sizes: tuple[tuple[int, int], ...],
    cells: Tensor,
    value: Tensor,
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """Do in torch what the fused operator does inside, then call the plain one."""
    locations = sampling_locations(reference, offsets, cells)
    return ms_deform_attn(value, level_sizes, locations, attention_weights(logits).to(locations.dtype))


@dataclass(frozen=True)
class _Other:
    """Somebody else's implementation: how to load it, where and in what it runs."""

    name: str
    load: Callable[[], Operator]
    devices: tuple[str, ...]
    dtypes: tuple[str, ...] = tuple(DTYPES)


def _other(name: str, dtype: str, operator: Operator, inputs: Inputs) -> Contender:
    """An operator with the signature of 2020; it wants all its floats in one dtype."""
    sizes = torch.tensor(inputs.level_sizes, device=inputs.value.device)
    lengths = sizes.prod(-1)
    starts = lengths.cumsum(0) - lengths

    def call(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return operator(value, sizes, starts, locations, weights)

    tensors = _leaves(inputs.value, inputs.locations.to(DTYPES[dtype]), inputs.weights.to(DTYPES[dtype]))
    return Contender(name, dtype, call, tensors, inputs.grad_output)


def _load_peer() -> Operator:
    """Import torch-ms-deform-attn."""
    from torch_ms_deform_attn import ms_deform_attn as operator

    return operator


def _load_deformops() -> Operator:
    """Import deformops, which chooses among its kernels by itself."""
    from deformops.registry import msda

    return msda


def _load_scheme_2020() -> Operator:
    """Compile the kernels of ms_deform_attn_2020.cu and give them gradients."""
    from torch.utils import cpp_extension  # Says that it misses a GPU where there is none.

    source = Path(__file__).with_name("ms_deform_attn_2020.cu")
    kernels = cpp_extension.load("ms_deform_attn_2020", [str(source)], extra_cuda_cflags=["-O3"])
    return functools.partial(_Scheme2020.apply, kernels)


class _Scheme2020(torch.autograd.Function):
    """The kernels of ms_deform_attn_2020.cu as one differentiable function."""

    @staticmethod
    def forward(ctx: Any, kernels: ModuleType, *tensors: Tensor) -> Tensor:
        """Sum the samples."""
        ctx.kernels = kernels
        ctx.save_for_backward(*tensors)
        return kernels.forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of value, locations and weights."""
        value, locations, weights = ctx.kernels.backward(grad_output, *ctx.saved_tensors)
        return None, value, None, None, locations, weights


OTHERS = (
    _Other(PEER, _load_peer, ("cpu", "cuda")),
    _Other(DEFORMOPS, _load_deformops, ("cuda",)),
    _Other(SCHEME_2020, _load_scheme_2020, ("cuda",), ("float32",)),
)
