"""Join the json of all shards to one in COCO-panoptic form; one shard is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from ..data.reading import read_json
from ..inference.saving import LISTING, PREDICTIONS
from ..writing import whole_file
from .places import Places

__all__ = ["Failure", "Summary", "join_shards"]

SHOWN_FAILURES = 8


@dataclass(frozen=True)
class Failure:
    """A picture without a result, and the reason."""

    file_name: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """What a json of all shards has.

    Attributes:
        pictures: number of pictures with a result.
        failures: number of those without.
        first_failures: some of these.
    """

    pictures: int
    failures: int
    first_failures: tuple[Failure, ...]


def join_shards(places: Places, number: int) -> Summary:
    """Write the json of a number of finished shards together; its png are where they are.

    Raises: FileNotFoundError, ValueError: if the json of a shard is missing or damaged, or was made for other
        categories than the first one.
    """
    shown: list[Failure] = []
    with whole_file(places.joined) as partial, partial.open("w", encoding="utf-8") as stream:
        categories = _read(places, 0)["categories"]
        stream.write(f'{{"categories": {json.dumps(categories)}')
        pictures = _write_list(stream, "images", _images(places, number, categories))
        _write_list(stream, "annotations", _annotations(places, number))
        failures = _write_list(stream, "failures", _failures(places, number, shown))
        stream.write("}\n")
    return Summary(pictures, failures, tuple(shown))


def _read(places: Places, number: int) -> dict[str, Any]:
    return read_json(places.shard(number) / LISTING)


def _images(places: Places, number: int, categories: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for shard in range(number):
        content = _read(places, shard)
        if content["categories"] != categories:
            raise ValueError(
                f"{places.shard(shard)} was made for other categories than {places.shard(0)}: the dataset's json has "
                "changed in between; remove the folders of the shards that are of the old one and run again"
            )
        yield from content["images"]


def _annotations(places: Places, number: int) -> Iterator[dict[str, Any]]:
    for shard in range(number):
        folder = f"{places.shard(shard).name}/{PREDICTIONS}"
        for annotation in _read(places, shard)["annotations"]:
            yield {**annotation, "file_name": f"{folder}/{annotation['file_name']}"}


def _failures(places: Places, number: int, shown: list[Failure]) -> Iterator[dict[str, Any]]:
    for shard in range(number):
        for failure in _read(places, shard).get("failures", []):
            if len(shown) < SHOWN_FAILURES:
                shown.append(Failure(**failure))
            yield failure


def _write_list(stream: TextIO, key: str, entries: Iterable[dict[str, Any]]) -> int:
    """Write a list of the json entry by entry and return its length."""
    length = 0
    stream.write(f', "{key}": [')
    for length, entry in enumerate(entries, start=1):
        stream.write(f"{',' if length > 1 else ''}\n{json.dumps(entry)}")
    stream.write("]")
    return length
