"""Profile inference: a decoded picture to its results, stage by stage.

Shape legend: H, W size that the network sees, H0, W0 size of the picture and of the results.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data import transforms as T
from torch import nn

from .stages import SHARED_STAGES, Run, Stopwatch, measured_parts

__all__ = ["STAGES", "PictureBatch", "time_inference"]

STAGES = {**SHARED_STAGES, "collect_candidates": "mask decoders", "merge": "merging"}
# What no stage has: putting levels together, and calls between the stages.
REST = "rest"


@dataclass(frozen=True)
class PictureBatch:
    """A batch that has the same picture `number` times.

    Attributes:
        picture: (H0, W0, 3) uint8 in the channel order of INPUT.FORMAT; results have its size.
        size: (H, W).
        number: pictures in the batch.
    """

    picture: np.ndarray
    size: tuple[int, int]
    number: int = 1

    def examples(self) -> list[dict[str, object]]:
        """Return what the model takes; every picture is resized on its own, as DefaultPredictor does."""
        height, width = self.picture.shape[:2]
        resize = T.ResizeTransform(height, width, *self.size)
        examples = []
        for _ in range(self.number):
            image = torch.from_numpy(np.ascontiguousarray(resize.apply_image(self.picture).transpose(2, 0, 1)))
            examples.append({"image": image, "height": height, "width": width})
        return examples


@torch.no_grad()
def time_inference(model: nn.Module, batch: PictureBatch, amp: bool = False) -> Run:
    """Run once; "preprocess" is the resizing too.

    Args:
        model: a PanopticSegFormer in inference mode.
        batch: its input.
        amp: whether to run under torch.autocast in its default dtype for the device.
    Returns: seconds by the names of `STAGES`, "rest" and "total"; the model's list of results.
    """
    stopwatch = Stopwatch(model.device)
    autocast = torch.autocast(model.device.type, enabled=amp)
    with measured_parts(model, STAGES, stopwatch), autocast, stopwatch.measure("total"):
        with stopwatch.measure("preprocess"):
            examples = batch.examples()
        results = model(examples)
    seconds = {name: stopwatch.seconds[name] for name in STAGES.values()}
    total = stopwatch.seconds["total"]
    return Run({**seconds, REST: total - sum(seconds.values()), "total": total}, results)
