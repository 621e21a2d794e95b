"""Types of command line arguments; argparse turns their errors into messages."""

from __future__ import annotations

import argparse

__all__ = ["pixels", "positive"]

SMALLEST_SIDE = 32  # One cell of the coarsest feature that all backbones have.


def pixels(word: str) -> int:
    """Return a side of a picture."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"invalid number of pixels {word!r}, give a whole number")
    side = int(word)
    if side < SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(f"{side} pixels are too few, give at least {SMALLEST_SIDE}")
    return side


def positive(word: str) -> int:
    """Return a number of something."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"invalid number {word!r}, give a whole number of at least 1")
    return int(word)
