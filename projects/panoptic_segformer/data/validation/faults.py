"""What a fault of a dataset is: a function that finds it, with severity and remedy beside it.

Such a function takes what it looks at (its module says what) and yields a `Finding` for every place that has the
fault. The fault is called as the function, with dashes; the first line of the docstring explains it.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["Fault", "Faults", "Finding", "Severity", "Tally"]

Subject = TypeVar("Subject")


class Severity(enum.StrEnum):
    """What a fault does."""

    ERROR = "error"  # Training or evaluation stops, or gives wrong results.
    WARNING = "warning"  # They work; something is probably not as it was meant, or other tools will fail.
    NOTE = "note"  # Good to know.


class Finding(NamedTuple):
    """One place that has a fault: file names and ids, the value there, the value that would be right."""

    where: str
    seen: Any = None
    expected: Any = None

    def __str__(self) -> str:
        """Return the finding as a line."""
        seen = "" if self.seen is None else f": {self.seen}"
        return f"{self.where}{seen}" + ("" if self.expected is None else f", expected {self.expected}")


@dataclass(frozen=True)
class Fault(Generic[Subject]):
    """A class of faults.

    Attributes:
        name: words with dashes.
        severity: what it does.
        explanation: one sentence.
        remedy: what to do about it.
        is_fixable: whether `panseg validate --fix` corrects it.
        find: yields the places that have it.
    """

    name: str
    severity: Severity
    explanation: str
    remedy: str
    is_fixable: bool
    find: Callable[[Subject], Iterable[Finding]]


class Faults(list[Fault[Subject]]):
    """The classes of faults that one subject may have, in the order of the report."""

    def add(self, severity: Severity, remedy: str, *, is_fixable: bool = False) -> Callable:
        """Return a decorator that makes a function that finds a fault one of these classes."""

        def register(find: Callable[[Subject], Iterator[Finding]]) -> Callable[[Subject], Iterator[Finding]]:
            explanation = find.__doc__.strip().splitlines()[0]
            self.append(Fault(find.__name__.replace("_", "-"), severity, explanation, remedy, is_fixable, find))
            return find

        return register

    def search(self, subject: Subject, tally: Tally) -> None:
        """Add every fault of a subject to a tally."""
        for fault in self:
            tally.add(fault.name, fault.find(subject))


@dataclass
class Tally:
    """Faults that were found: how many places of each name, and the first of them.

    Attributes:
        num_examples: places that are kept of each name.
        counts: number of places by name; examples: the first of them.
    """

    num_examples: int
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, name: str, findings: Iterable[Finding]) -> None:
        """Add places that have the fault of a name."""
        for finding in findings:
            self.counts[name] += 1
            self._keep(name, [finding])

    def merge(self, other: Tally) -> None:
        """Add what another tally has."""
        self.counts.update(other.counts)
        for name, examples in other.examples.items():
            self._keep(name, examples)

    def _keep(self, name: str, findings: list[Finding]) -> None:
        kept = self.examples.setdefault(name, [])
        kept.extend(findings[: self.num_examples - len(kept)])
