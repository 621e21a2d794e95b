"""Parameters and FLOPs of a model in words and tables."""

from __future__ import annotations

from tabulate import tabulate
from torch import nn

from .cost import count_flops, count_parameters, model_parts

__all__ = ["cost_report"]

GIGA = 1e9


def cost_report(model: nn.Module, size: tuple[int, int]) -> str:
    """Return parameters and FLOPs by part, FLOPs by operator, and the operators without a count.

    Args:
        model: in inference mode and on the CPU.
        size: height and width of the picture as the network sees it, pixels.
    """
    parts = {name: count_parameters(getattr(model, name)) for name in model_parts(model)}
    parts["total"] = count_parameters(model)
    flops = count_flops(model, size)
    by_part = {**flops.by_part, "total": flops.total}
    rows = [
        [name, f"{size.total:,}", f"{size.trainable:,}", f"{by_part[name] / GIGA:.2f}"] for name, size in parts.items()
    ]
    operators = sorted(flops.by_operator.items(), key=lambda item: -item[1])
    uncounted = ", ".join(f"{name} ({number})" for name, number in sorted(flops.uncounted.items()))
    is_ours = hasattr(model, "collect_candidates")
    scope = "merging is not included" if is_ours else "of the whole call: models that find more may do more"
    return "\n".join(
        [
            _table(rows, ["part", "parameters", "trainable", "GFLOPs"]),
            "",
            _table([[name, f"{number / GIGA:.2f}"] for name, number in operators], ["operator", "GFLOPs"]),
            "",
            f"without attention and deformable attention, as counters of layers report: {flops.of_layers / GIGA:.2f}",
            f"one multiply-add = one FLOP; {scope}",
            f"operators without a count (times run): {uncounted}",
        ]
    )


def _table(rows: list[list[str]], headers: list[str]) -> str:
    alignment = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=alignment)
