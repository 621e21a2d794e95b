"""Time one picture through a model, part by part, with the compiled operator and with its PyTorch definition.

`python benchmarks/inference.py [--config-file FILE] [--size HEIGHT WIDTH] [--runs N] [--threads N] [--device cpu]`
The weights are random: times of the network do not depend on them, the number of merged segments does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import torch
from detectron2.modeling import build_model
from tabulate import tabulate

from panoptic_segformer import load_config
from panoptic_segformer.modeling import deformable_attention
from panoptic_segformer.ops import backend, ms_deform_attn_fused, ms_deform_attn_fused_reference

PARTS = ("backbone", "neck", "encoder", "location_decoder", "thing_mask_decoder", "stuff_mask_decoder")


class Stopwatch:
    """Measures the parts of a model by hooks: seconds of wall time, after the device has finished."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.device = model.device
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.starts: dict[str, float] = {}
        for name in PARTS:
            part = getattr(model, name)
            part.register_forward_pre_hook(lambda *_, name=name: self.start(name))
            part.register_forward_hook(lambda *_, name=name: self.stop(name))

    def start(self, name: str) -> None:
        """Note when a part begins."""
        self.starts[name] = self.now()

    def stop(self, name: str) -> None:
        """Note how long it took."""
        self.seconds[name].append(self.now() - self.starts[name])

    def now(self) -> float:
        """Return the time when all work so far is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@torch.no_grad()
def measure(model: torch.nn.Module, image: torch.Tensor, runs: int) -> dict[str, float]:
    """Return the median seconds of each part, of the rest (merging), and of the whole, after one warm-up."""
    model([{"image": image}])
    watch = Stopwatch(model)
    for _ in range(runs):
        watch.start("total")
        model([{"image": image}])
        watch.stop("total")
    medians = {name: statistics.median(watch.seconds[name]) for name in (*PARTS, "total")}
    medians["merging and the rest"] = medians["total"] - sum(medians[name] for name in PARTS)
    return medians


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="configs/coco/panoptic_segformer_r50_2x.yaml")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = build_model(load_config(arguments.config_file, ["MODEL.DEVICE", arguments.device])).eval()
    image = torch.randint(0, 256, (3, *arguments.size), dtype=torch.uint8)
    columns = {}
    operators = {"compiled": ms_deform_attn_fused, "PyTorch definition": ms_deform_attn_fused_reference}
    for title, operator in operators.items():
        deformable_attention.ms_deform_attn_fused = operator
        columns[title] = measure(model, image, arguments.runs)
    rows = [
        [name, *(column[name] for column in columns.values())] for name in (*PARTS, "merging and the rest", "total")
    ]
    height, width = arguments.size
    machine = f"{arguments.device}, {arguments.threads} threads, torch {torch.__version__}"
    print(f"{arguments.config_file}, {height}x{width}, {machine}")
    print(f"operator: {backend(arguments.device).reason}; median seconds of {arguments.runs} runs")
    print(tabulate(rows, ["part", *columns], tablefmt="pipe", floatfmt=".2f"))


if __name__ == "__main__":
    main()
