"""Time the whole model beside the released arrangement of its work, stage by stage, and compare memory and results.

`python benchmarks/model.py [--config-file YAML] [--opts KEY VALUE ...] [--weights FILE] [--size HEIGHT WIDTH]`
`[--threads N ...] [--runs N] [--measure inference training memory ...]`

Three contenders have the same weights and the same synthetic scene, which has the network's size:

- released arrangement: what benchmarks/released makes of our model, on the operator's PyTorch definition;
- definition: our model with that definition of the operator, and nothing else changed;
- ours.

They take turns after one warm-up; times are the least wall seconds of each stage. Peak memory is that of one run beyond
weights and optimizer state, with as many threads as the first --threads says (profiling/memory.py). Random weights
would find nothing, so every candidate enters merging and keeps what it sees, unless --opts gives other thresholds: the
most work that merging can have.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
from collections.abc import Callable
from unittest import mock

import torch
from detectron2.data import transforms as T
from released import as_released
from tabulate import tabulate
from timing import Times, take_turns

from panoptic_segformer import ops
from panoptic_segformer.modeling import deformable_attention
from panoptic_segformer.profiling.machine import device_name
from panoptic_segformer.profiling.memory import MemoryUnknownError, in_fresh_process, peak_memory
from panoptic_segformer.profiling.setting import Setting, Subject
from panoptic_segformer.profiling.stages import Run

# The name of the operator where the model calls it.
OPERATOR = "ms_deform_attn_fused"
RELEASED, DEFINITION, OURS = CONTENDERS = ("released arrangement", "definition", "ours")
MERGING = "MODEL.PANOPTIC_SEGFORMER.MERGING"
EVERY_CANDIDATE = (
    *(f"{MERGING}.SCORE_THRESHOLD", "0.0"),
    *(f"{MERGING}.THING_OVERLAP_THRESHOLD", "0.99"),
    *(f"{MERGING}.STUFF_OVERLAP_THRESHOLD", "0.99"),
    # By class score alone: masks that cover the picture, as many random ones do, come anywhere and not first.
    *(f"{MERGING}.MASK_EXPONENT", "0.0"),
)
MEGA = 1e6


def main() -> None:
    """Print all tables."""
    arguments = _parse_arguments()
    setting = Setting(
        config_file=arguments.config_file,
        opts=("MODEL.DEVICE", "cpu", *EVERY_CANDIDATE, *arguments.opts),
        weights=arguments.weights,
        size=tuple(arguments.size),
        picture="",
        threads=arguments.threads[0],
        amp=False,
        channels_last=False,
        compiled=False,
        train=False,
    )
    facts = {
        "config": " ".join([setting.config_file, *setting.opts]),
        "weights": setting.weights or "random",
        "size": "{}x{} (height x width)".format(*setting.size),
        "device": device_name("cpu"),
        "torch": torch.__version__,
        "operator": ops.backend("cpu").reason,
        "runs": f"{arguments.runs} after one warm-up",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    print("\n".join(f"- {name}: {fact}" for name, fact in facts.items()))
    if "inference" in arguments.measure:
        _measure_inference(setting, arguments.threads, arguments.runs)
    if "training" in arguments.measure:
        training = dataclasses.replace(setting, train=True)
        times = take_turns(_calls(training), _seconds, arguments.threads, arguments.runs)
        _print_times("training step", times, arguments.threads)
    if "memory" in arguments.measure:
        _print_memory(setting)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="configs/coco/panoptic_segformer_r50_2x.yaml", metavar="YAML")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    parser.add_argument("--weights", default="", metavar="FILE", help="default: random weights")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()], metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    choices = ("inference", "training", "memory")
    parser.add_argument("--measure", nargs="+", choices=choices, default=choices, help="default: all")
    arguments = parser.parse_args()
    if min(arguments.runs, *arguments.threads) < 1:
        parser.error("--runs and --threads must be at least 1")
    return arguments


def _calls(setting: Setting) -> dict[str, Callable[[], Run]]:
    """Return what runs each contender once."""
    return {name: _call(setting, name) for name in CONTENDERS}


def _call(setting: Setting, name: str) -> Callable[[], Run]:
    """Return what runs one contender once, with a model of its own."""
    subject = Subject(setting)
    resize = T.ResizeTransform(*subject.picture.shape[:2], *setting.size)
    subject.picture = resize.apply_image(subject.picture)
    if name == RELEASED:
        subject.model = as_released(subject.model)
    run = subject.prepare(1)
    return _with_definition(run) if name == DEFINITION else run


def _with_definition(run: Callable[[], Run]) -> Callable[[], Run]:
    def patched() -> Run:
        with mock.patch.object(deformable_attention, OPERATOR, getattr(ops, f"{OPERATOR}_reference")):
            return run()

    return patched


def _measure_inference(setting: Setting, thread_counts: list[int], runs: int) -> None:
    """Print times by stage, and how far the contenders' results differ."""
    results = {}

    def keep_result(name: str, call: Callable[[], Run]) -> Run:
        run = call()
        results[name] = run.results[0]
        return run

    calls = {name: functools.partial(keep_result, name, call) for name, call in _calls(setting).items()}
    _print_times("inference", take_turns(calls, _seconds, thread_counts, runs), thread_counts)
    truth = results[RELEASED]
    rows = [[name, *_differences(results[name], truth)] for name in (DEFINITION, OURS)]
    headers = ["against the released arrangement", "segments", "equal pixels", "largest difference of scores"]
    _print_table("results", headers, rows)


def _differences(result: dict[str, object], truth: dict[str, object]) -> list[str]:
    """Return number of segments here and there, share of equal pixels, and how far scores of equal ranks differ.

    Pixels are equal where they have the same rank among the segments, best first.
    """
    ids, segments = result["panoptic_seg"]
    true_ids, true_segments = truth["panoptic_seg"]
    pairs = zip(segments, true_segments, strict=False)
    largest = max((abs(own["score"] - other["score"]) for own, other in pairs), default=0.0)
    equal = (ids == true_ids).float().mean().item()
    return [f"{len(segments)} and {len(true_segments)}", f"{equal:.4%}", f"{largest:.1e}"]


def _seconds(call: Callable[[], Run]) -> dict[str, float]:
    return call().seconds


def _print_times(title: str, times: dict[tuple[str, int], Times], thread_counts: list[int]) -> None:
    """Print a table per number of threads: least seconds of each stage, and the first contender over the last."""
    for threads in thread_counts:
        rows = []
        for stage in times[OURS, threads]:
            least = [min(times[name, threads][stage]) for name in CONTENDERS]
            rows.append([stage, *(f"{seconds:.2f}" for seconds in least), _ratio(least[0], least[-1])])
        headers = ["stage, seconds", *CONTENDERS, f"{RELEASED} / {OURS}"]
        _print_table(f"{title}, {threads} CPU threads", headers, rows)


def _print_memory(setting: Setting) -> None:
    """Print peak memory of inference and of a training step."""
    rows = []
    for title, train in (("inference", False), ("training step", True)):
        peaks = [_peak_or_nothing(dataclasses.replace(setting, train=train), name) for name in CONTENDERS]
        ratio = _ratio(peaks[-1], peaks[0]) if peaks[0] and peaks[-1] else "-"
        rows.append([title, *(f"{peak / MEGA:,.0f}" if peak else "-" for peak in peaks), ratio])
    _print_table("peak memory", ["MB", *CONTENDERS, f"{OURS} / {RELEASED}"], rows)


def _peak_or_nothing(setting: Setting, name: str) -> int | None:
    """Return the peak of one run of a contender; print why where it can't be had, and return None."""
    try:
        return in_fresh_process(_peak, setting, name)
    except MemoryUnknownError as error:
        print(f"\n{name}: memory is not measured, {error}.")
        return None


def _peak(setting: Setting, name: str) -> int:
    """Return the peak of one run of a contender; for a process of its own."""
    call = _call(setting, name)
    call()
    return peak_memory(call, torch.device("cpu"))[0]


def _ratio(numerator: float, denominator: float) -> str:
    return f"{numerator / denominator:.2f}" if denominator > 0 else "-"


def _print_table(title: str, headers: list[str], rows: list[list[str]]) -> None:
    alignment = ["left", *["right"] * (len(headers) - 1)]
    print(f"\n### {title}\n")
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=alignment), flush=True)


if __name__ == "__main__":
    main()
