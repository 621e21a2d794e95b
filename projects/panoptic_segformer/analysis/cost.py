"""Parameters and FLOPs of a model, part by part.

One multiply-add counts as one FLOP, as in fvcore and in the tables of the field. What fvcore has no count for is
counted here (attention, deformable attention and convolution) or named, so that nothing is left out in silence.
Shape legend: B pictures, M heads, D model width, L levels, Q queries, K keys, P points, H, W size of the picture.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

__all__ = ["FlopCount", "PartSize", "count_flops", "count_parameters", "model_parts"]

# A bilinear sample is four multiply-adds per channel, its attention weight one more.
SAMPLE_FLOPS = 5
# Names that the counts of this file have among the operators.
ATTENTION = "attention"
DEFORMABLE_ATTENTION = "deformable attention"
DEFORMABLE_CONV = "deformable conv"


@dataclass(frozen=True)
class PartSize:
    """Number of parameters of a part of a model: all of them, and those that learn."""

    total: int
    trainable: int


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of the network for one picture.

    Of a Panoptic SegFormer merging, which only places masks, is no part; of other models the whole call counts.

    Attributes:
        by_part: FLOPs of each part of `model_parts`, in their order.
        by_operator: FLOPs by the name of the operator.
        uncounted: how often operators ran that no count is known for.
    """

    by_part: dict[str, int]
    by_operator: dict[str, int]
    uncounted: dict[str, int]

    @property
    def total(self) -> int:
        """FLOPs of the whole network."""
        return sum(self.by_operator.values())

    @property
    def of_layers(self) -> int:
        """FLOPs without attention between tokens, as counters that only look at layers report them (mmcv's)."""
        return self.total - sum(self.by_operator.get(name, 0) for name in (ATTENTION, DEFORMABLE_ATTENTION))


def model_parts(model: nn.Module) -> list[str]:
    """Return the names of the model's children that have parameters, in the order of the data flow."""
    return [name for name, child in model.named_children() if next(child.parameters(), None) is not None]


def count_parameters(model: nn.Module) -> PartSize:
    """Count the parameters of a module. Statistics and affine numbers of frozen batch norm are none (Detectron2)."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return PartSize(sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns))


@torch.no_grad()
def count_flops(model: nn.Module, size: tuple[int, int], image: Tensor | None = None) -> FlopCount:
    """Count the FLOPs of a model of Detectron2 for one picture.

    Args:
        model: in inference mode.
        size: (H, W) in pixels, as the network sees the picture.
        image: (3, H, W), values 0 to 255; random if not given. What some models do depends on what they see.
    """
    image = torch.rand(3, *size) * 255 if image is None else image
    network = _Network(model) if hasattr(model, "collect_candidates") else _WholeCall(model)
    analysis = FlopCountAnalysis(network, image)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle(**OPERATOR_FLOPS)
    analysis.set_op_handle("aten::clone", None)  # Copies nothing but memory.
    by_module = analysis.by_module()
    return FlopCount(
        by_part={name: int(by_module[f"model.{name}"]) for name in model_parts(model)},
        by_operator={name: int(flops) for name, flops in analysis.by_operator().items()},
        uncounted=dict(analysis.unsupported_ops()),
    )


class _Network(nn.Module):
    """Of a Panoptic SegFormer everything from the picture to the masks and class probabilities of all candidates."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks and class probabilities for an image (3, H, W), values 0 to 255."""
        levels = self.model.extract_levels(self.model.preprocess([{"image": image}]))
        memory = self.model.encoder(levels)
        decoder = self.model.location_decoder
        location = None if decoder is None else decoder(memory, levels)
        (candidates,) = self.model.collect_candidates(memory, levels, location)
        return candidates.masks, candidates.class_probs


class _WholeCall(nn.Module):
    """A call of any model of Detectron2, with a number from each output of each of its modules.

    Tracing forgets what no output depends on: a class score that decides in Python what is kept, or everything if
    nothing is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the model for an image (3, H, W), values 0 to 255."""
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            # A copy, for the whole output would stay in memory.
            kept.extend(tensor.reshape(-1)[:1].clone() for tensor in _tensors_in(output))

        modules = [module for module in self.model.modules() if not isinstance(module, torch.jit.ScriptModule)]
        hooks = [module.register_forward_hook(keep) for module in modules]
        try:
            height, width = map(int, image.shape[-2:])  # While tracing they are tensors, which few operators take.
            self.model([{"image": image, "height": height, "width": width}])
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(kept)


def _tensors_in(output: Any) -> Iterator[Tensor]:
    """Find the tensors in nested lists, tuples and dicts."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors_in(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors_in(part)


Handle = Callable[[list[Any], list[Any]], Counter[str]]


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Queries (..., Q, D/M) times keys (..., K, D/M), then weights (..., Q, K) times values."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return Counter({ATTENTION: math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def _native_attention_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count attention that torch runs as one operator: the four projections are part of it, as linear layers."""
    (batch, queries, width), (_, keys, _) = (get_shape(tensor) for tensor in inputs[:2])
    projections = 2 * batch * (queries + keys) * width**2
    return Counter({ATTENTION: 2 * batch * queries * keys * width, "linear": projections})


def _baddbmm_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """(B, n, m) times (B, m, p), which are inputs 1 and 2; DETR's attention weights come from it."""
    return Counter({"baddbmm": math.prod(get_shape(inputs[1])) * get_shape(inputs[2])[-1]})


def _deformable_conv_flops(weight_index: int) -> Handle:
    """Make the handle of a deformable convolution whose input of that index is the weight, as of a plain one."""

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        fan_in = math.prod(get_shape(inputs[weight_index])[1:])
        return Counter({DEFORMABLE_CONV: math.prod(get_shape(outputs[0])) * fan_in})

    return count


def _sampling_flops(weights_index: int) -> Handle:
    """Make the handle of a deformable attention operator whose input of that index has one number per sample."""

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        num_samples = math.prod(get_shape(inputs[weights_index]))  # B * Q * M * L * P
        channels = get_shape(inputs[0])[-1]  # of one head
        return Counter({DEFORMABLE_ATTENTION: SAMPLE_FLOPS * num_samples * channels})

    return count


def _reference_sampling_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count the same where the PyTorch definition runs: the result has one number per sample and channel."""
    return Counter({DEFORMABLE_ATTENTION: SAMPLE_FLOPS * math.prod(get_shape(outputs[0]))})


OPERATOR_FLOPS: dict[str, Handle] = {
    "aten::scaled_dot_product_attention": _attention_flops,
    "aten::_native_multi_head_attention": _native_attention_flops,
    "aten::baddbmm": _baddbmm_flops,
    "torchvision::deform_conv2d": _deformable_conv_flops(1),
    # Detectron2's own, where it is compiled: (input, offset, weight) and (input, offset, mask, weight).
    "prim::PythonOp._DeformConv": _deformable_conv_flops(2),
    "prim::PythonOp._ModulatedDeformConv": _deformable_conv_flops(3),
    # Deformable DETR's and Mask2Former's: (value, sizes, starts, locations, weights).
    "prim::PythonOp.MSDeformAttnFunction": _sampling_flops(4),
    # Attention weights and logits are the last input of both.
    "panoptic_segformer::ms_deform_attn": _sampling_flops(3),
    "panoptic_segformer::ms_deform_attn_fused": _sampling_flops(4),
    "aten::grid_sampler": _reference_sampling_flops,
}
