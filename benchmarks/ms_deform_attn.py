"""Time multi-scale deformable attention: ours, its PyTorch definition, and what else is installed.

`python benchmarks/ms_deform_attn.py [--device cpu|cuda] [--case NAME ...] [--dtype NAME ...] [--threads N ...]`
`[--batch N] [--runs N] [--shrink N] [--json FILE]`

All implementations run in one process on the same inputs and take turns. Cases (see cases.py), all with M = 8 heads
of C = 32 channels and P = 4 points:

- encoder: levels 100x152 + 50x76 + 25x38 of an input of 800x1216, one query per token. Point p of head k samples at
  the token's place + direction of head k * (p + 1) cells + N(0, 1) cells of noise.
- four-levels: the same with a level of 13x19 added.
- uniform: every point of every token samples anywhere in the picture.
- decoder: 300 queries with boxes at random centres; points lie as in the encoder case, in shares of the box.

"compiled" is the plain form of the operator, "compiled, fused" the one that also does the softmax and the arithmetic
of locations; "compiled, softmax by torch" leaves both to torch, in front of the plain form.

Times are least / median milliseconds; ratios compare least ones, those of one CPU thread in CPU time of the process
and those of more in wall time. A GPU's times are of its kernels (timing.py). Memory is explained in
panoptic_segformer/profiling/memory.py, the rates that ours is held against in rates.py. The least work of a pass is
every input and result once per direction, and per corner and channel one multiply-add forward and two backward.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import shlex
import sys
from pathlib import Path

import torch
from cases import CASES, Case, make_inputs
from implementations import COMPILED, DTYPES, FUSED, PASSES, Contender, make_contenders, peer_versions
from memory import CaseMemory, measure_memory
from rates import measure_rates
from results import CaseResult, Key, Results, Work
from tables import format_results
from timing import Clock, make_clock, take_turns

from panoptic_segformer.ops import backend
from panoptic_segformer.profiling.machine import device_name
from panoptic_segformer.writing import whole_file


def main() -> None:
    """Measure and print the tables; write the single times to a file if asked for."""
    arguments = _parse_arguments()
    operator = backend(arguments.device)
    if operator.name != "compiled":
        raise SystemExit(f"there is no compiled operator to measure: {operator.reason}. Remedy: {operator.remedy}")
    clock = make_clock(arguments.device)
    cases = {name: CASES[name].shrink(arguments.shrink) for name in arguments.case}
    results = Results(
        device=arguments.device,
        machine=_describe_machine(arguments.device),
        thread_counts=arguments.threads,
        rates=measure_rates(arguments.device, arguments.threads, clock),
        cases={name: _measure_case(case, arguments, clock) for name, case in cases.items()},
        memory=measure_memory(cases, arguments.batch, arguments.dtype, arguments.device),
    )
    print(format_results(results))
    if arguments.json:
        with whole_file(arguments.json) as partial:
            partial.write_text(json.dumps(_to_json(results), indent=1), encoding="utf-8")


def _parse_arguments() -> argparse.Namespace:
    """Read the command line; what depends on the device is filled in here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), help="of value")
    parser.add_argument("--threads", nargs="+", type=_at_least_one, metavar="N", help="of a CPU; default: 1 2")
    parser.add_argument("--batch", type=_at_least_one, metavar="N", help="default: 1 on a CPU, 2 on a GPU")
    parser.add_argument("--runs", type=_at_least_one, default=8, metavar="N", help="after one warm-up; default: 8")
    parser.add_argument(
        "--shrink", type=_at_least_one, default=1, metavar="N", help="divide the sides of levels, for a quick trial"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single time there")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    if on_gpu and arguments.threads:
        parser.error("--threads counts threads of a CPU: leave it out with --device cuda")
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no folder {arguments.json.parent}, make it first")
    arguments.threads = sorted(set(arguments.threads or ([1] if on_gpu else [1, 2])))
    arguments.batch = arguments.batch or (2 if on_gpu else 1)
    return arguments


def _at_least_one(text: str) -> int:
    """Read a count."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return count


def _describe_machine(device: str) -> dict[str, str]:
    """Return what the figures belong to, by the name of each fact."""
    peers = ", ".join(f"{name} {version}" for name, version in peer_versions().items())
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": device_name(device),
        "torch": f"{torch.__version__}, Python {platform.python_version()}",
        "operator": backend(device).reason,
        "peers installed": peers or "none",
    }


def _measure_case(case: Case, arguments: argparse.Namespace, clock: Clock) -> CaseResult:
    """Measure everything of one case but the memory."""
    contenders, missing = make_contenders(make_inputs(case, arguments.batch), arguments.dtype, arguments.device)
    ours = [contender for contender in contenders if contender.name in (COMPILED, FUSED)]
    calls = {
        Key(contender.name, contender.dtype, pass_): call
        for contender in contenders
        for pass_, call in contender.passes().items()
    }
    return CaseResult(
        case=case,
        batch=arguments.batch,
        times=take_turns(calls, clock, arguments.threads, arguments.runs),
        works={Key(one.name, one.dtype, pass_): Work.of(one, pass_) for one in ours for pass_ in PASSES},
        errors=_measure_errors(contenders),
        missing=missing,
    )


def _measure_errors(contenders: list[Contender]) -> dict[tuple[str, str], float]:
    """Compare all outputs with that of the first contender, the definition."""
    (expected,) = contenders[0].forward()
    errors = {}
    for contender in contenders:
        (output,) = contender.forward()
        errors[contender.name, contender.dtype] = (output.float() - expected).abs().max().item()
    return errors


def _to_json(results: Results) -> dict[str, object]:
    """Return what was measured, without what can be computed from it."""
    memory = results.memory
    if not isinstance(memory, str):
        memory = {name: _memory_to_json(case) for name, case in memory.items()}
    return {
        "machine": results.machine,
        "rates": {threads: dataclasses.asdict(rates) for threads, rates in results.rates.items()},
        "cases": {name: _case_to_json(result) for name, result in results.cases.items()},
        "memory": memory,
    }


def _case_to_json(result: CaseResult) -> dict[str, object]:
    """Return one case; the times are in seconds, one record per implementation, dtype, pass and thread count."""
    return {
        "title": result.describe(),
        "times": [
            {"name": key.name, "dtype": key.dtype, "pass": key.pass_, "threads": threads, "seconds": times}
            for (key, threads), times in result.times.items()
        ],
        "errors": [{"name": name, "dtype": dtype, "max": error} for (name, dtype), error in result.errors.items()],
        "missing": result.missing,
    }


def _memory_to_json(memory: CaseMemory) -> list[dict[str, object]]:
    """Return the memory of one case in bytes, one record per implementation, dtype and pass."""
    return [
        {"name": name, "dtype": dtype, "pass": pass_, **dataclasses.asdict(one)}
        for (name, dtype), passes in memory.items()
        for pass_, one in passes.items()
    ]


if __name__ == "__main__":
    main()
