"""The picture of an equal-budget training: PQ over iterations and over training time, a line per model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from ..writing import whole_file
from .equal_training import Training

__all__ = ["plot_curves"]

# Colours of Okabe and Ito, which colour-blind people tell apart; markers and dashes do it without colour.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
WIDTH, HEIGHT, DPI = 9.0, 3.8, 150
SECONDS_PER_MINUTE = 60


def plot_curves(trainings: Sequence[Training], path: Path) -> None:
    """Write the curves of all models that were trained as a picture of the format that the path's ending says.

    The time is that of training alone: on a CPU of the processor, as other work on the machine does not lengthen it.
    """
    is_processor_time = not any(training.setup.device.startswith("cuda") for training in trainings)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        over_iterations, over_time = figure.subplots(1, 2, sharey=True)
        looks = zip(cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
        for training, (color, marker, dashes) in zip(trainings, looks, strict=False):
            if not training.curve:
                continue
            look = {"color": color, "marker": marker, "markersize": 4, "linestyle": dashes, "label": training.name}
            qualities = [point.qualities["PQ"] for point in training.curve]
            seconds = [point.cpu_seconds if is_processor_time else point.seconds for point in training.curve]
            over_iterations.plot([point.iterations for point in training.curve], qualities, **look)
            over_time.plot([second / SECONDS_PER_MINUTE for second in seconds], qualities, **look)
        over_iterations.set(xlabel="iterations", ylabel="PQ, percent")
        over_time.set(xlabel=f"training, minutes of {'processor time' if is_processor_time else 'time'}")
        for axes in (over_iterations, over_time):
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
        figure.legend(*over_iterations.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
        with whole_file(path) as partial:
            figure.savefig(partial, dpi=DPI)
