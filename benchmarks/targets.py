"""What the operator was built to reach, and how each figure is computed from a run of the benchmark.

All are of the float32 plain form in the encoder case with one thread, unless they say otherwise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from implementations import COMPILED, DEFINITION, DETERMINISTIC, PEER, SCHEME_2020
from results import CaseResult, Key, Results

__all__ = ["TARGETS", "Target"]

BOTH = "forward+backward"
HALF = "bfloat16"


@dataclass(frozen=True)
class Target:
    """One figure to reach.

    Attributes:
        title: what is compared with what.
        wanted: the figure.
        measure: computes what was reached; raises KeyError where something it needs was not measured.
        unit: of the figure; empty for a ratio.
        relation: "at least" or "at most".
    """

    title: str
    wanted: float
    measure: Callable[[Results], float]
    unit: str = "times"
    relation: str = "at least"

    def reached(self, results: Results) -> float | None:
        """Return the figure, or None where the run did not measure what it takes."""
        try:
            return self.measure(results)
        except KeyError:
            return None

    def is_met(self, reached: float) -> bool:
        """Return whether a figure is good enough."""
        return {"at least": operator.ge, "at most": operator.le}[self.relation](reached, self.wanted)


def _speedup(
    results: Results, than: str, pass_: str = "forward", case: str = "encoder", dtype: str = "float32", of: str = ""
) -> float:
    """Return how many times faster ours is than another implementation, which is in dtype `of` (float32)."""
    return results.cases[case].speedup(Key(COMPILED, dtype, pass_), Key(than, of or "float32", pass_), threads=1)


def _thread_gain(results: Results, pass_: str) -> float:
    """Return the gain of two threads over one."""
    return results.cases["encoder"].thread_gain(Key(COMPILED, "float32", pass_), 2)


def _extra_memory(results: Results, pass_: str) -> float:
    """Return the peak beyond inputs and results, as a multiple of value's bytes, which are the output's here."""
    if isinstance(results.memory, str):
        raise KeyError(results.memory)
    passes = results.memory["encoder"][COMPILED, "float32"]
    return (passes[pass_].peak - passes[pass_].results) / passes["forward"].results


def _share_of_level2(results: Results) -> float:
    """Return how near the forward comes to the time that reading its corners from the level 2 cache takes."""
    result, level2 = results.cases["encoder"], results.rates[1].level2
    if level2 is None:
        raise KeyError("level2")
    key = Key(COMPILED, "float32", "forward")
    return 100 * result.works[key].corners / level2 / result.seconds(key, threads=1)


def _cost_of_determinism(results: Results) -> float:
    """Return the time of the deterministic backward over that of the fast one."""
    result = results.cases["encoder"]
    return _backward(result, DETERMINISTIC) / _backward(result, COMPILED)


def _backward(result: CaseResult, name: str) -> float:
    """Return the seconds that a backward adds to a forward."""
    both, forward = (result.seconds(Key(name, "float32", pass_), threads=1) for pass_ in (BOTH, "forward"))
    return both - forward


# Nothing beyond the output was wanted; the rest is what the measurement may err by.
MEMORY = (
    Target(
        "memory of forward beyond its output",
        0.05,
        partial(_extra_memory, pass_="forward"),
        unit="of value",
        relation="at most",
    ),
    Target(
        "memory of backward beyond its results",
        1,
        partial(_extra_memory, pass_=BOTH),
        unit="of value",
        relation="at most",
    ),
)

TARGETS = {
    "cpu": (
        Target("forward against the PyTorch definition", 25, partial(_speedup, than=DEFINITION)),
        Target("forward against torch-ms-deform-attn", 4, partial(_speedup, than=PEER)),
        Target("forward+backward against the PyTorch definition", 18, partial(_speedup, than=DEFINITION, pass_=BOTH)),
        Target("forward+backward against torch-ms-deform-attn", 4, partial(_speedup, than=PEER, pass_=BOTH)),
        Target(
            "decoder, forward against the PyTorch definition", 7, partial(_speedup, than=DEFINITION, case="decoder")
        ),
        Target(
            "decoder, forward+backward against the PyTorch definition",
            6,
            partial(_speedup, than=DEFINITION, pass_=BOTH, case="decoder"),
        ),
        Target("bfloat16 forward against float32", 1, partial(_speedup, than=COMPILED, dtype=HALF)),
        Target(
            "bfloat16 forward against torch-ms-deform-attn in bfloat16",
            6,
            partial(_speedup, than=PEER, dtype=HALF, of=HALF),
        ),
        Target("forward, two threads against one", 1.8, partial(_thread_gain, pass_="forward")),
        Target("forward+backward, two threads against one", 1.8, partial(_thread_gain, pass_=BOTH)),
        *MEMORY,
    ),
    "cuda": (
        Target("forward against the scheme of 2020", 2, partial(_speedup, than=SCHEME_2020)),
        Target("forward against reading its corners from the level 2 cache", 35, _share_of_level2, unit="%"),
        Target(
            "bfloat16 forward against the scheme of 2020 in float32", 3, partial(_speedup, than=SCHEME_2020, dtype=HALF)
        ),
        Target(
            "float16 forward against the scheme of 2020 in float32",
            3,
            partial(_speedup, than=SCHEME_2020, dtype="float16"),
        ),
        Target("forward+backward against the scheme of 2020", 1.5, partial(_speedup, than=SCHEME_2020, pass_=BOTH)),
        Target(
            "bfloat16 forward+backward against the scheme of 2020 in float32",
            2,
            partial(_speedup, than=SCHEME_2020, pass_=BOTH, dtype=HALF),
        ),
        Target("deterministic backward against the fast one", 2, _cost_of_determinism, relation="at most"),
        *MEMORY,
    ),
}
