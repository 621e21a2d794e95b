"""Hold an exported file to the model that it was made of: outputs, and the panoptic map that merging makes of them.

Candidates are a set. Where two probabilities differ by rounding alone, their order may differ, and which of two is the
last that is chosen; rows are paired before they are compared, and such rows at the cut are left out.
Shape legend: N candidates, H, W size of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from tabulate import tabulate
from torch import Tensor

from ..comparison.disagreement import disagreement
from ..comparison.results import Prediction
from ..inference.candidates import Candidates
from ..profiling.inputs import make_scene
from .network import ExportableNetwork, Outputs

if TYPE_CHECKING:
    from ..meta_arch import PanopticSegFormer

__all__ = ["LEAST_AGREEMENT", "Parity", "check_parity", "largest_errors", "parity_table", "scene_image"]

# Share of pixels with the same segment.
LEAST_AGREEMENT = 0.999
# Probabilities nearer than this to the lowest that is chosen may belong to other candidates.
CUT_ROUNDING = 1e-5
# More than any sum of differences between two candidates of one class.
OTHER_CLASS = 1e9


@dataclass(frozen=True)
class Parity:
    """How far a file is from its model on one picture.

    Attributes:
        size: (H, W).
        errors: largest absolute error of masks, class_probs and boxes, and the number of classes that differ, by the
            outputs' names.
        scales: largest absolute value that the model gives, at least 1, by the same names.
        agreement: share of pixels with the same segment.
        segments: how many the model finds.
    """

    size: tuple[int, int]
    errors: dict[str, float]
    scales: dict[str, float]
    agreement: float
    segments: int

    def fails(self, tolerance: float) -> bool:
        """Return whether an error exceeds tolerance x scale, a class differs, or the maps agree on too few pixels."""
        within = (error <= tolerance * self.scales[name] for name, error in self.errors.items())
        return not all(within) or self.agreement < LEAST_AGREEMENT


@torch.no_grad()
def check_parity(model: PanopticSegFormer, run: Callable[[Tensor], Outputs], image: Tensor) -> Parity:
    """Compare what a file and its model make of an image (3, H, W) uint8.

    Args:
        model: in inference mode.
        run: runs the file.
        image: in the channel order of INPUT.FORMAT.
    """
    size = (image.shape[-2], image.shape[-1])
    outputs = run(image)
    expected = ExportableNetwork(model).outputs(image)
    maps = [model.merge(Candidates(**outputs), size), model([{"image": image}])[0]]
    first, second = (Prediction(ids.numpy(), records) for ids, records in (each["panoptic_seg"] for each in maps))
    return Parity(
        size,
        largest_errors(outputs, expected),
        {name: max(1.0, _largest(expected[name])) for name in ("masks", "class_probs", "boxes")} | {"category_ids": 1},
        1 - disagreement([first, second]),
        len(second.segments),
    )


def largest_errors(outputs: Outputs, expected: Outputs) -> dict[str, float]:
    """Return the largest absolute error of each output, and in how many rows classes differ.

    Raises: ValueError: if their shapes differ (states both).
    """
    for name, tensor in expected.items():
        if outputs[name].shape != tensor.shape:
            raise ValueError(
                f"the file's {name} have shape {list(outputs[name].shape)}, the model's {list(tensor.shape)}: export "
                "again, and report it if it stays so"
            )
    order = _pair_rows(outputs, expected)
    paired = {name: tensor[order[: len(tensor)]] for name, tensor in outputs.items()}
    things = expected["is_thing"]
    probs = expected["class_probs"]
    lowest = probs[things].min() if things.any() else probs.new_tensor(-1.0)
    chosen = ~things | (torch.maximum(probs, paired["class_probs"]) > lowest + CUT_ROUNDING)
    errors = {"category_ids": float((paired["category_ids"] != expected["category_ids"])[chosen].sum())}
    for name in ("masks", "class_probs", "boxes"):
        rows = chosen[: len(expected[name])]
        errors[name] = _largest((paired[name].double() - expected[name].double())[rows])
    return errors


def _pair_rows(outputs: Outputs, expected: Outputs) -> Tensor:
    """Return for each expected candidate (N,) the row of the one that is nearest to it; things meet things."""
    cost = torch.cdist(expected["class_probs"][:, None], outputs["class_probs"][:, None]).double()
    masks = [each["masks"].flatten(1) for each in (expected, outputs)]
    cost += torch.cdist(*masks, p=1) / max(1, masks[0].shape[1])
    num_things = len(expected["boxes"])
    cost[:num_things, :num_things] += torch.cdist(expected["boxes"], outputs["boxes"], p=1)
    for name in ("category_ids", "is_thing"):
        cost += OTHER_CLASS * (expected[name][:, None] != outputs[name])
    return torch.from_numpy(linear_sum_assignment(cost.nan_to_num(nan=OTHER_CLASS).numpy())[1])


def _largest(values: Tensor) -> float:
    """Return the largest absolute value; what is not a number is larger than all."""
    return float(values.abs().nan_to_num(nan=torch.inf).max()) if values.numel() else 0.0


def scene_image(size: tuple[int, int], channels: str) -> Tensor:
    """Return a synthetic scene as an image (3, H, W) uint8 of a size, in an order of channels, "RGB" or "BGR"."""
    picture = np.asarray(Image.fromarray(make_scene().image).resize(size[::-1], Image.Resampling.BILINEAR))
    ordered = picture if channels == "RGB" else picture[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1)))


def parity_table(checks: Sequence[Parity]) -> str:
    """Return a line per picture."""
    rows = [
        [
            "{}x{}".format(*check.size),
            *(f"{check.errors[name]:.1e} of {check.scales[name]:.1f}" for name in ("masks", "class_probs", "boxes")),
            f"{check.errors['category_ids']:.0f}",
            f"{check.agreement:.4%}",
            check.segments,
        ]
        for check in checks
    ]
    headers = ["height x width", "masks", "class_probs", "boxes", "other classes", "equal pixels", "segments"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=["right"] * len(headers))
