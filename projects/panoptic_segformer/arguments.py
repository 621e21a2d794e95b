"""Command line arguments that several verbs share, and their types; argparse turns the types' errors into messages."""

from __future__ import annotations

import argparse

__all__ = ["add_device", "add_opts", "add_size", "device_overrides", "pixels", "positive"]

SMALLEST_SIDE = 32  # One cell of the coarsest feature that all backbones have.


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")


def device_overrides(device: str) -> list[str]:
    """Return the config overrides KEY VALUE of a --device."""
    return [] if device == "auto" else ["MODEL.DEVICE", device]


def add_opts(parser: argparse.ArgumentParser) -> None:
    """Add --opts."""
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")


def add_size(parser: argparse.ArgumentParser, default: tuple[int, int]) -> None:
    """Add --size HEIGHT WIDTH."""
    parser.add_argument(
        "--size",
        type=pixels,
        nargs=2,
        default=default,
        metavar=("HEIGHT", "WIDTH"),
        help="picture as the network sees it, pixels; default: {} {}".format(*default),
    )


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
