"""What `panseg benchmark` prints and writes: times by stage, throughput and peak memory."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate

from ..analysis import count_parameters
from ..ops import backend
from ..writing import whole_file
from .machine import device_name
from .memory import MemoryUnknownError, in_fresh_process, peak_memory
from .setting import COMPILED_PARTS, Setting, Subject
from .stages import Profile, repeat

__all__ = ["BatchReport", "benchmark"]

MEGA = 1e6
# In the message of torch's plain RuntimeError for it.
CPU_OUT_OF_MEMORY = "can't allocate memory"


@dataclass(frozen=True)
class BatchReport:
    """What was measured with batches of one size.

    Attributes:
        number: pictures in the batch.
        profile: the times.
        peak_bytes: peak memory of one run, beyond what is in use between runs; None where it is not known.
        peak_unknown: why it is not known.
        state_bytes: what the optimizer keeps between runs; 0 in inference.
        segments: found in the picture; None in training, and where panoptic results are switched off.
    """

    number: int
    profile: Profile
    peak_bytes: int | None
    peak_unknown: str
    state_bytes: int
    segments: int | None


def benchmark(
    setting: Setting, batches: Sequence[int], runs: int, warm_up: int, json_file: Path | None = None
) -> Iterator[str]:
    """Measure, and yield the report in markdown, piece by piece.

    Args:
        setting: what is run.
        batches: pictures in a batch; all is measured for each of these.
        runs: how many count.
        warm_up: how many are made before them.
        json_file: receives every single number.
    Raises: FileNotFoundError, ValueError: if the setting can't be had here, or a batch is too large for the GPU.
    """
    if json_file is not None and (json_file.is_dir() or not json_file.parent.is_dir()):
        raise FileNotFoundError(f"{json_file} can't be written: give a file in a folder that is there")
    subject = Subject(setting)
    facts = {**_describe(subject), "runs": f"{runs} after {warm_up} for warm-up"}
    yield "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    reports = []
    for number in batches:
        reports.append(_measure(subject, number, runs, warm_up))
        if json_file is not None:  # each time anew: a later batch may be too large
            _write(json_file, setting, facts, reports)
        yield _format(reports[-1], setting)
    if len(reports) > 1:
        yield _compare(reports)


def _measure(subject: Subject, number: int, runs: int, warm_up: int) -> BatchReport:
    call = subject.prepare(number)
    try:
        profile = repeat(call, runs, warm_up)
        peak, unknown = _measure_peak(subject, number), ""
    except MemoryUnknownError as error:
        peak, unknown = None, str(error)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and CPU_OUT_OF_MEMORY not in str(error):
            raise
        raise ValueError(f"a batch of {number} does not fit into the memory: give smaller ones to --batch") from error
    segments = _count_segments(profile.results)
    profile = dataclasses.replace(profile, results=None)  # masks of the pictures' size
    return BatchReport(number, profile, peak, unknown, subject.state_bytes(), segments)


def _measure_peak(subject: Subject, number: int) -> int:
    if subject.model.device.type == "cuda":
        return peak_memory(subject.prepare(number), subject.model.device)[0]
    return in_fresh_process(_peak_of, subject.setting, number)


def _peak_of(setting: Setting, number: int) -> int:
    """Return the peak of one run; for a process of its own."""
    subject = Subject(setting)
    call = subject.prepare(number)
    call()
    return peak_memory(call, subject.model.device)[0]


def _count_segments(results: object) -> int | None:
    """Return the number of segments in the first picture's result."""
    if isinstance(results, list) and "panoptic_seg" in results[0]:
        return len(results[0]["panoptic_seg"][1])
    return None


def _describe(subject: Subject) -> dict[str, str]:
    """Return what the figures belong to, by the name of each fact."""
    setting, model = subject.setting, subject.model
    device_type = model.device.type
    operator = backend(device_type)
    weight_bytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    precision = "float32"
    if setting.amp:
        precision = f"torch.autocast, {str(torch.get_autocast_dtype(device_type)).removeprefix('torch.')}"
    compiled = ", ".join(name for name in COMPILED_PARTS if getattr(model, name) is not None)
    return {
        "config": " ".join([setting.config_file, *setting.opts]),
        "weights": setting.weights or "random; how many masks are merged depends on them",
        "parameters": f"{count_parameters(model).total / MEGA:.2f} M, with buffers {weight_bytes / MEGA:.1f} MB",
        **_describe_input(subject),
        "device": f"{device_name(device_type)}, {setting.threads} CPU threads",
        "torch": f"{torch.__version__}, Python {platform.python_version()}",
        "operator": f"{operator.name}: {operator.reason}",
        "precision": precision,
        "channels last": "weights and input of the backbone" if setting.channels_last else "where the model chooses it",
        "torch.compile": compiled if setting.compiled else "no",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _describe_input(subject: Subject) -> dict[str, str]:
    setting = subject.setting
    source = setting.picture or "synthetic scene"
    if setting.train:
        truth = subject.truth()
        return {"input": f"{source} of {_size(setting.size)} (height x width); truth: {truth}"}
    picture = _size(subject.picture.shape[:2])
    return {"input": f"{source} of {picture} (height x width), resized to {_size(setting.size)}; results of {picture}"}


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _format(report: BatchReport, setting: Setting) -> str:
    """Return the table of one batch size."""
    profile, train = report.profile, setting.train
    low, high = ("p10", "p90") if profile.has_percentiles else ("least", "greatest")
    total = profile.median("total")
    rows = []
    for stage in profile.seconds:
        median, (least, greatest) = profile.median(stage), profile.spread(stage)
        times = [_milliseconds(seconds) for seconds in (median, least, greatest)]
        rows.append([stage, *times, f"{median / total:.1%}"])
    table = tabulate(
        rows,
        ["stage", "median ms", f"{low} ms", f"{high} ms", "share of total"],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * 4],
    )
    what = "training step" if train else "inference"
    first = "the first run, with compilation, took" if setting.compiled else "the first run took"
    lines = [f"{_rate(report):.3g} pictures per second; {first} {profile.first_seconds:.3g} s"]
    if report.segments is not None:
        lines.append(f"segments found: {report.segments}")
    kept = f"weights and optimizer state ({report.state_bytes / MEGA:,.1f} MB)" if train else "weights"
    lines.append(f"peak memory beyond {kept}: {_peak(report)}")
    return f"### {what}, batch of {report.number}\n\n{table}\n\n" + "\n".join(f"- {line}" for line in lines)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.2f}"


def _rate(report: BatchReport) -> float:
    return report.number / report.profile.median("total")


def _peak(report: BatchReport) -> str:
    return (
        f"not measured, {report.peak_unknown}" if report.peak_bytes is None else f"{report.peak_bytes / MEGA:,.1f} MB"
    )


def _compare(reports: Sequence[BatchReport]) -> str:
    """Return the table of all batch sizes."""
    rows = []
    for report in reports:
        total = report.profile.median("total")
        peak = "-" if report.peak_bytes is None else f"{report.peak_bytes / MEGA:,.1f}"
        times = [_milliseconds(total), _milliseconds(total / report.number)]
        rows.append([str(report.number), *times, f"{_rate(report):.3g}", peak])
    headers = ["batch", "total ms", "ms per picture", "pictures per second", "peak memory MB"]
    return "### all batches\n\n" + tabulate(
        rows, headers, tablefmt="pipe", disable_numparse=True, colalign=["right"] * len(headers)
    )


def _write(path: Path, setting: Setting, facts: dict[str, str], reports: Sequence[BatchReport]) -> None:
    content = {
        "setting": dataclasses.asdict(setting),
        "facts": facts,
        "batches": [
            {
                "batch": report.number,
                "seconds": report.profile.seconds,
                "first_seconds": report.profile.first_seconds,
                "peak_bytes": report.peak_bytes,
                "peak_unknown": report.peak_unknown,
                "state_bytes": report.state_bytes,
                "segments": report.segments,
            }
            for report in reports
        ],
    }
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
