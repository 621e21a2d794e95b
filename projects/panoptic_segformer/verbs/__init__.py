"""The verbs of the command `panseg`, a module each, in the order of its help.

A verb's module is named as the verb (with _ for -) and has `HELP`, its line in `panseg --help`,
`add_arguments(parser)` and `run(arguments)`, which returns the exit code: 0 all done, 1 done in part, 2 stopped by
wrong input. Libraries are imported inside `run`: help is instant, and `panseg info` works where they are missing.
"""

from __future__ import annotations

from . import (
    analyze,
    benchmark,
    benchmark_data,
    compare,
    configs,
    convert,
    demo,
    evaluate,
    export,
    info,
    page,
    predict_many,
    quickstart,
    reproduce,
    robustness,
    synthesize,
    validate,
)

__all__ = ["VERBS"]

VERBS = (
    *(info, demo, predict_many, page, quickstart),
    *(validate, convert, synthesize),
    *(evaluate, robustness, compare),
    *(configs, analyze, benchmark, export),
    *(benchmark_data, reproduce),
)
