"""Plot PQ against iterations from the metrics.json of a training: `python docs/plot_pq.py METRICS PICTURE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main(metrics: str, picture: str) -> None:
    """Read Detectron2's metrics.json (one json object a line) and write the curve as a picture."""
    lines = [json.loads(line) for line in Path(metrics).read_text(encoding="utf-8").splitlines()]
    points = [line for line in lines if "panoptic_seg/PQ" in line]
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for key, label in (("PQ", "all"), ("PQ_th", "things"), ("PQ_st", "stuff")):
        iterations = [line["iteration"] + 1 for line in points]
        axes.plot(iterations, [line[f"panoptic_seg/{key}"] for line in points], marker="o", label=label)
    axes.set(xlabel="iteration", ylabel="PQ", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
