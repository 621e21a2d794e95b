"""The command `panseg`: one parser for all verbs, and what becomes of wrong input.

What each verb takes and does: verbs/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .verbs import VERBS

__all__ = ["main"]

USER_ERROR = 2  # As argparse's own exit code.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 all done, 1 done in part, 2 stopped by wrong input."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except ImportError as error:
        reason = f"{error}; `panseg info` tells what is missing and how to get it"
    except (ValueError, OSError) as error:
        reason = str(error)
    print(f"panseg {arguments.verb}: {reason}", file=sys.stderr)
    return USER_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="panseg", description="Panoptic SegFormer for Detectron2.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        name = verb.__name__.rpartition(".")[-1].replace("_", "-")
        of_verb = verbs.add_parser(name, help=verb.HELP)
        verb.add_arguments(of_verb)
        of_verb.set_defaults(run=verb.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
