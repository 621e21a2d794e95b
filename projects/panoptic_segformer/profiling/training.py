"""Profile training steps on a synthetic scene with its truth.

Shape legend: H, W picture size.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from torch import nn

from ..data.categories import Categories
from ..data.synthetic import CATEGORIES
from .inputs import make_scene
from .stages import SHARED_STAGES, Run, Stopwatch, measured_parts

__all__ = ["STAGES", "time_training_step", "training_examples"]

# Masks are made where a loss asks for them, so their decoders can't be told from matching and losses.
STAGES = {**SHARED_STAGES, "compute_losses": "mask decoders and losses"}
# The rest is what no stage has: putting levels together, and bringing the truth to the device.
BEHIND = ("rest", "backward", "optimizer", "total")
# Loss scales that overflow skip the optimizer's step, which would make a run too short.
LOSS_SCALE = 1.0


def training_examples(categories: Categories, size: tuple[int, int], number: int) -> list[dict[str, object]]:
    """Return a batch of the same scene `number` times, as PanopticDatasetMapper makes it.

    The scene's classes stand for some of the model's: thing (stuff) class k is class k modulo their number.

    Args:
        categories: the model's classes.
        size: (H, W).
        number: pictures in the batch.
    """
    scene = make_scene()
    resize = T.ResizeTransform(*scene.segments.shape, *size)
    image = torch.from_numpy(np.ascontiguousarray(resize.apply_image(scene.image).transpose(2, 0, 1)))
    segments = torch.from_numpy(np.array(resize.apply_segmentation(scene.segments.astype(np.uint8))))
    labels: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for category in CATEGORIES:
        kind = labels[bool(category["isthing"])]
        kind[category["name"]] = len(kind)
    things, stuff = [], defaultdict(lambda: torch.zeros(size, dtype=torch.bool))
    for segment_id, name in enumerate(scene.names, start=1):
        mask = segments == segment_id
        if name in labels[False]:
            stuff[labels[False][name] % max(1, categories.num_stuff)] |= mask
        elif mask.any():
            things.append((labels[True][name] % max(1, categories.num_things), mask))
    instances = _instances(size, things)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return [{"image": image, "instances": instances, "stuff": _instances(size, sorted(stuff.items()))}] * number


def _instances(size: tuple[int, int], targets: list[tuple[int, torch.Tensor]]) -> Instances:
    """Return targets, each a class with its mask (H, W) bool."""
    masks = torch.zeros(len(targets), *size, dtype=torch.bool)
    for row, (_, mask) in zip(masks, targets, strict=True):
        row.copy_(mask)
    classes = torch.tensor([label for label, _ in targets], dtype=torch.int64)
    return Instances(size, gt_classes=classes, gt_masks=BitMasks(masks))


def time_training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, examples: list[dict[str, object]], amp: bool = False
) -> Run:
    """Take one optimizer step; it changes the model.

    Args:
        model: a PanopticSegFormer in training mode.
        optimizer: of its parameters.
        examples: the batch.
        amp: whether forward and losses run under torch.autocast in its default dtype for the device.
    Returns: seconds by the names of `STAGES`, "rest", "backward", "optimizer" and "total"; the losses by name.
    """
    device = model.device
    stopwatch = Stopwatch(device)
    scaler = torch.amp.GradScaler(device.type, LOSS_SCALE, enabled=amp and device.type == "cuda")
    with measured_parts(model, STAGES, stopwatch), stopwatch.measure("total"):
        with torch.autocast(device.type, enabled=amp), stopwatch.measure("forward"):
            losses = model(examples)
            loss = sum(losses.values())
        with stopwatch.measure("backward"):
            scaler.scale(loss).backward()
        with stopwatch.measure("optimizer"):
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    seconds = {name: stopwatch.seconds[name] for name in STAGES.values()}
    measured = {**stopwatch.seconds, "rest": stopwatch.seconds["forward"] - sum(seconds.values())}
    detached = {name: value.detach() for name, value in losses.items()}
    return Run(seconds | {name: measured[name] for name in BEHIND}, detached)
