"""`panseg info`: what is installed, and how to mend what is not in order."""

from __future__ import annotations

import argparse

HELP = "versions, operator backend, and what is missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the verb has no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print versions, devices and the operator's backend, then how to mend what is not in order."""
    del arguments  # The verb has none.
    from ..environment import collect_facts

    facts = collect_facts()
    width = max(len(fact.name) for fact in facts)
    for fact in facts:
        print(f"{fact.name:<{width}}  {fact.value}")
    remedies = [fact for fact in facts if fact.remedy]
    print("\nto be mended:" if remedies else "\nnothing is missing")
    for fact in remedies:
        print(f"{fact.name:<{width}}  {fact.remedy}")
    return 0
