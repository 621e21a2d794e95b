"""Markdown tables of what the benchmark of multi-scale deformable attention measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from implementations import DEFINITION, FROM_LOGITS, PASSES, PEER, SCHEME_2020, SEPARATE
from memory import CaseMemory
from results import CaseResult, Key, Results
from tabulate import tabulate
from targets import TARGETS, Target

__all__ = ["format_results"]

# Who is compared with whom: a column of ratios for each of these that ran.
YARDSTICKS = (DEFINITION, PEER, SCHEME_2020)
YARDSTICKS_FROM_LOGITS = (SEPARATE,)
CLOCK_TITLES = {"cpu": "CPU ms", "wall": "wall ms", "device": "GPU ms"}
MEGA, GIGA = 1e6, 1e9

Row = dict[str, object]


def format_results(results: Results) -> str:
    """Return all tables as one markdown text."""
    parts = ["\n".join(f"- {name}: {fact}" for name, fact in results.machine.items()), _format_rates(results)]
    for name, result in results.cases.items():
        parts += [f"### {name}", result.describe(), *_format_case(result, results)]
        if not isinstance(results.memory, str):
            rows = _memory_rows(results.memory[name])
            parts += ["Peak memory beyond the inputs, and how much of it is results, MB:", _table(rows)]
        parts += [f"Left out: {other} {reason}." for other, reason in result.missing.items()]
    if isinstance(results.memory, str):
        parts.append(f"Memory not measured: {results.memory}.")
    return "\n\n".join(
        [*parts, "### targets", _table(_target_row(target, results) for target in TARGETS[results.device])]
    )


def _table(rows: Iterable[Row]) -> str:
    """Format dictionaries with the same keys as a markdown table."""
    return tabulate(list(rows), headers="keys", tablefmt="pipe", disable_numparse=True)


def _format_rates(results: Results) -> str:
    """Show what the machine can do at most."""
    rows = []
    for threads, rates in results.rates.items():
        row: Row = {"threads": threads, "copy GB/s (read + written)": f"{rates.copy / GIGA:.1f}"}
        row["torch.mm float32 GFLOP/s"] = f"{rates.matmul / GIGA:.0f}"
        if rates.level2:
            row["level 2 cache GB/s (read)"] = f"{rates.level2 / GIGA:.0f}"
        rows.append(row)
    return _table(rows)


def _format_case(result: CaseResult, results: Results) -> list[str]:
    """Show the times by threads and form, then rates and gain of threads."""
    names = {name for name, _ in result.errors}
    parts = []
    for threads in results.thread_counts:
        count = _count(threads, results)
        located = _time_rows(result, threads, names.difference(FROM_LOGITS), YARDSTICKS)
        placed = _time_rows(result, threads, names.intersection(FROM_LOGITS), YARDSTICKS_FROM_LOGITS)
        parts += [f"Times{count}, locations and weights given:", _table(located)]
        parts += [f"Times{count}, offsets and logits given:", _table(placed)]
    fewest = min(results.thread_counts)
    parts += [f"Rates reached{_count(fewest, results)}:", _table(_work_rows(result, results, fewest))]
    several = [threads for threads in results.thread_counts if threads > 1]
    if fewest == 1 and several:
        parts += ["Times faster than with one thread, by the wall clock:", _table(_thread_rows(result, several))]
    return parts


def _count(threads: int, results: Results) -> str:
    """Say how many threads ran, where that matters."""
    if results.device == "cuda":
        return ""
    return f", {threads} thread{'s' * (threads > 1)}"


def _time_rows(result: CaseResult, threads: int, names: set[str], yardsticks: tuple[str, ...]) -> list[Row]:
    """One row per implementation: least / median times, and ratios of the least ones."""
    rows = []
    for name, dtype in result.errors:
        if name not in names:
            continue
        row: Row = {"implementation": name, "dtype": dtype, "max error": f"{result.errors[name, dtype]:.1e}"}
        for pass_ in PASSES:
            key = Key(name, dtype, pass_)
            for clock, seconds in result.times[key, threads].items():
                row[f"{pass_}, {CLOCK_TITLES[clock]}"] = f"{_ms(min(seconds))} / {_ms(statistics.median(seconds))}"
            for yardstick in yardsticks:
                than = _same_dtype(result, Key(yardstick, dtype, pass_), threads)
                if than:
                    row[f"{pass_}, times {yardstick}"] = f"{result.speedup(key, than, threads):.2f}"
        rows.append(row)
    return rows


def _ms(seconds: float) -> str:
    """Show milliseconds with three digits, or all that stand before the point."""
    milliseconds = seconds * 1000
    before_point = len(str(int(milliseconds))) if milliseconds >= 1 else 0
    return f"{milliseconds:.{max(0, 3 - before_point)}f}"


def _same_dtype(result: CaseResult, key: Key, threads: int) -> Key | None:
    """Return a key that was timed: in its own dtype, or else in float32, or else None."""
    candidates = (key, key._replace(dtype="float32"))
    return next((candidate for candidate in candidates if (candidate, threads) in result.times), None)


def _work_rows(result: CaseResult, results: Results, threads: int) -> list[Row]:
    """One row per implementation of ours and pass: how near it comes to the machine's rates."""
    rates, rows = results.rates[threads], []
    for key, work in result.works.items():
        seconds = result.seconds(key, threads)
        row: Row = {"implementation": key.name, "dtype": key.dtype, "pass": key.pass_, "ms": _ms(seconds)}
        row["inputs and results MB"] = f"{work.traffic / MEGA:.1f}"
        row["GB/s (of copy)"] = _share(work.traffic / seconds, rates.copy)
        row["GFLOP"] = f"{work.operations / GIGA:.3f}"
        row["GFLOP/s (of torch.mm)"] = _share(work.operations / seconds, rates.matmul)
        corners = _share(work.corners / seconds, rates.level2) if key.pass_ == "forward" else ""
        row["corners GB/s (of level 2 cache)" if rates.level2 else "corners GB/s"] = corners
        rows.append(row)
    return rows


def _share(rate: float, attainable: float | None) -> str:
    """Show a rate, and which part it is of the attainable one."""
    share = f" ({rate / attainable:.0%})" if attainable else ""
    return f"{rate / GIGA:.1f}{share}"


def _thread_rows(result: CaseResult, several: list[int]) -> list[Row]:
    """One row per implementation: how much several threads gain."""
    rows = []
    for name, dtype in result.errors:
        row: Row = {"implementation": name, "dtype": dtype}
        for threads in several:
            for pass_ in PASSES:
                row[f"{threads} threads, {pass_}"] = f"{result.thread_gain(Key(name, dtype, pass_), threads):.2f}"
        rows.append(row)
    return rows


def _memory_rows(memory: CaseMemory) -> list[Row]:
    """One row per implementation: peak, and what of it is returned."""
    rows = []
    for (name, dtype), passes in memory.items():
        row: Row = {"implementation": name, "dtype": dtype}
        for pass_, one in passes.items():
            row[f"{pass_}, peak"] = f"{one.peak / MEGA:.1f}"
            row[f"{pass_}, results"] = f"{one.results / MEGA:.1f}"
        rows.append(row)
    return rows


def _target_row(target: Target, results: Results) -> Row:
    """Compare one target with what was reached."""
    reached = target.reached(results)
    row: Row = {"target": target.title, "wanted": f"{target.relation} {target.wanted:g} {target.unit}".strip()}
    row["reached"] = "not measured" if reached is None else f"{reached:.2f}"
    row["met"] = "" if reached is None else "yes" if target.is_met(reached) else "no"
    return row
