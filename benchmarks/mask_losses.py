"""Measure the memory of a thing mask decoder's losses: whole masks against points of them, forward and backward.

    python benchmarks/mask_losses.py --things 10 50 100 --points 4096

The decoder has the released sizes and random weights; targets are rectangles. What is in memory before the losses, such
as the network's own activations, does not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch
from tabulate import tabulate

from panoptic_segformer.modeling.mask_attention import AttentionMap
from panoptic_segformer.modeling.mask_decoder import ThingMaskDecoder
from panoptic_segformer.modeling.recomputation import recompute_layers
from panoptic_segformer.profiling.memory import in_fresh_process, peak_memory
from panoptic_segformer.training.mask_losses import mask_dice_sums

CPU = torch.device("cpu")
DIM = 256
STRIDES = (8, 16, 32)
WHOLE, RECOMPUTED = "whole masks", "whole masks, ACTIVATION_CHECKPOINTING"


def main() -> None:
    """Print one line per number of things and way to compare their masks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--things", type=int, nargs="+", default=[10, 50, 100], metavar="N", help="in the picture")
    parser.add_argument("--points", type=int, default=4096, metavar="N", help="per mask; default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1216], metavar=("HEIGHT", "WIDTH"), help="pixels")
    arguments = parser.parse_args()
    rows = []
    for things in arguments.things:
        for way, points in ((WHOLE, 0), (RECOMPUTED, 0), (f"{arguments.points} points", arguments.points)):
            peak, seconds = in_fresh_process(measure, things, tuple(arguments.size), way == RECOMPUTED, points)
            rows.append([things, way, f"{peak / 1e6:,.1f}", f"{seconds:.2f}"])
    print(tabulate(rows, ["things", "masks compared", "peak MB", "seconds"], "github", disable_numparse=True))


def measure(things: int, size: tuple[int, int], recomputed: bool, points: int) -> tuple[int, float]:
    """Return the peak of one forward and backward pass in bytes, and its seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    levels = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]
    decoder = ThingMaskDecoder(num_classes=80, dim=DIM, num_heads=8, feedforward_dim=1024, num_blocks=4)
    if recomputed:
        recompute_layers([*(block.cross_attention.fusion for block in decoder.blocks), decoder.final_attention.fusion])
    with torch.no_grad():
        tokens = torch.randn(1, sum(height * width for height, width in levels), DIM)
        maps = [_as_inputs(attention) for attention in decoder(torch.randn(1, things, DIM), tokens, levels)]
    targets = torch.zeros(things, *size, dtype=torch.bool)
    for number, target in enumerate(targets):
        target[number : number + size[0] // 3, number : number + size[1] // 3] = True

    def run() -> float:
        start = time.perf_counter()
        mask_dice_sums(maps, torch.arange(things), targets, points).sum().backward()
        return time.perf_counter() - start

    run()
    return peak_memory(run, CPU)


def _as_inputs(attention: AttentionMap) -> AttentionMap:
    """Return a map that gradients reach and go no further."""
    return dataclasses.replace(
        attention, q=attention.q.detach().requires_grad_(), k=attention.k.detach().requires_grad_()
    )


if __name__ == "__main__":
    main()
