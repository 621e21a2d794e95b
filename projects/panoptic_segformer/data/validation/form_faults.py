"""Faults of the form of a panoptic json: what is no entry at all, and what can't be compared with anything.

Entries with such a fault are left out of all other checks, so that one mistake is reported once.
Reference: https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..reading import is_color, read_json
from .faults import Faults, Finding, Severity

__all__ = ["FORM_FAULTS", "Document", "values"]

FORM_FAULTS: Faults[Document] = Faults()

# The png has 24 bits for an id, and 0 is void.
_LARGEST_ID = 2**24 - 1
_LISTS = ("images", "annotations", "categories")
# Length of a value in a finding.
_SHOWN = 60


class _Rule(NamedTuple):
    """What a key's value must be."""

    holds: Callable[[Any], bool]
    words: str
    is_optional: bool = False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_WHOLE = _Rule(_is_whole, "a whole number")
_SIDE = _Rule(lambda value: _is_whole(value) and value > 0, "a number of pixels")
_TEXT = _Rule(lambda value: isinstance(value, str) and value != "", "a text")
# Cityscapes calls its pictures by name.
_PICTURE_ID = _Rule(lambda value: _is_whole(value) or isinstance(value, str), "a whole number or a text")
_SEGMENT_ID = _Rule(lambda value: _is_whole(value) and 0 < value <= _LARGEST_ID, f"1 to {_LARGEST_ID}")
_FLAG = _Rule(lambda value: value in (0, 1), "0 or 1")
_LIST = _Rule(lambda value: isinstance(value, list), "a list")
_COLOR = _Rule(lambda value: not value or is_color(value), "three whole numbers from 0 to 255")

_Rules = dict[str, _Rule]
_IMAGE: _Rules = {"id": _PICTURE_ID, "file_name": _TEXT, "height": _SIDE, "width": _SIDE}
_ANNOTATION: _Rules = {"image_id": _PICTURE_ID, "file_name": _TEXT, "segments_info": _LIST}
_SEGMENT: _Rules = {"id": _SEGMENT_ID, "category_id": _WHOLE, "iscrowd": _FLAG._replace(is_optional=True)}
_CATEGORY: _Rules = {
    "id": _WHOLE,
    "name": _TEXT,
    "isthing": _FLAG,
    "color": _COLOR._replace(is_optional=True),
}


@dataclass(frozen=True)
class Document:
    """A json as it is.

    Attributes:
        path: the file; content: what it holds; problem: why that could not be read, "" if it could.
    """

    path: Path
    content: Any
    problem: str = ""

    @classmethod
    def read(cls, path: str | Path) -> Document:
        """Return the document of a file.

        Raises: FileNotFoundError: if there is none.
        """
        try:
            return cls(Path(path), read_json(path))
        except (ValueError, RecursionError) as error:
            return cls(Path(path), None, str(error))

    def entries(self, key: str) -> list[Any]:
        """Return one of the lists of the json, empty if it is not there."""
        value = self.content.get(key) if isinstance(self.content, dict) else None
        return value if isinstance(value, list) else []

    def segments(self) -> Iterator[Any]:
        """Yield the entries of all segments."""
        for annotation in self.entries("annotations"):
            segments = annotation.get("segments_info") if isinstance(annotation, dict) else None
            yield from segments if isinstance(segments, list) else []

    def sound_images(self) -> list[dict[str, Any]]:
        """Return the entries of pictures that have the right form."""
        return [entry for entry in self.entries("images") if _is_sound(entry, _IMAGE)]

    def sound_annotations(self) -> list[dict[str, Any]]:
        """Return the entries of annotations that have the right form, in all of their segments."""
        return [
            entry
            for entry in self.entries("annotations")
            if _is_sound(entry, _ANNOTATION) and all(_is_sound(segment, _SEGMENT) for segment in entry["segments_info"])
        ]

    def sound_categories(self) -> list[dict[str, Any]]:
        """Return the entries of categories that have the right form."""
        return [entry for entry in self.entries("categories") if _is_sound(entry, _CATEGORY)]


@FORM_FAULTS.add(Severity.ERROR, "copy or write the file again")
def json_unreadable(document: Document) -> Iterator[Finding]:
    """The json can't be parsed, as after a copy that stopped half way."""
    if document.problem:
        yield Finding(document.path.name, document.problem)


@FORM_FAULTS.add(Severity.ERROR, "is it the panoptic json, and not that of instances?")
def list_missing(document: Document) -> Iterator[Finding]:
    """The json lacks one of the lists 'images', 'annotations' and 'categories'."""
    for key in _LISTS:
        if not document.problem and not (
            isinstance(document.content, dict) and isinstance(document.content.get(key), list)
        ):
            yield Finding(document.path.name, f"no list {key!r}")


@FORM_FAULTS.add(Severity.ERROR, "a dataset needs at least one annotated picture and one category")
def list_empty(document: Document) -> Iterator[Finding]:
    """The list 'annotations' or 'categories' is empty."""
    for key in ("annotations", "categories"):
        if isinstance(document.content, dict) and document.content.get(key) == []:
            yield Finding(document.path.name, f"{key!r} is empty")


@FORM_FAULTS.add(Severity.ERROR, "add the keys")
def key_missing(document: Document) -> Iterator[Finding]:
    """An entry of the json lacks a key that every such entry needs."""
    for where, entry, rules in _entries(document):
        if not isinstance(entry, dict):
            yield Finding(where, _shown(entry), "an object with keys")
        elif missing := _missing(entry, rules):
            yield Finding(where, f"no {', '.join(missing)}")


@FORM_FAULTS.add(Severity.ERROR, "correct the values")
def value_wrong(document: Document) -> Iterator[Finding]:
    """A value of the json is of another type than it must be, or out of its range."""
    for where, entry, rules in _entries(document):
        for key in _wrong(entry, rules):
            yield Finding(f"{where}, {key}", _shown(entry[key]), rules[key].words)


def values(entries: Iterable[Any], key: str) -> set[Any]:
    """Return what entries have under a key, as far as they have it."""
    found = (entry.get(key) for entry in entries if isinstance(entry, dict))
    return {value for value in found if isinstance(value, Hashable)}


def _entries(document: Document) -> Iterator[tuple[str, Any, _Rules]]:
    """Yield every entry of the json, where it stands, and what it must have."""
    for number, image in enumerate(document.entries("images")):
        yield f"'images', entry {number}", image, _IMAGE
    for number, category in enumerate(document.entries("categories")):
        yield f"'categories', entry {number}", category, _CATEGORY
    for number, annotation in enumerate(document.entries("annotations")):
        where = f"'annotations', entry {number}"
        yield where, annotation, _ANNOTATION
        segments = annotation.get("segments_info") if isinstance(annotation, dict) else None
        for position, segment in enumerate(segments if isinstance(segments, list) else []):
            yield f"{where}, segment {position}", segment, _SEGMENT


def _missing(entry: dict[str, Any], rules: _Rules) -> list[str]:
    return [key for key, rule in rules.items() if key not in entry and not rule.is_optional]


def _wrong(entry: Any, rules: _Rules) -> list[str]:
    if not isinstance(entry, dict):
        return []
    return [key for key, rule in rules.items() if key in entry and not rule.holds(entry[key])]


def _is_sound(entry: Any, rules: _Rules) -> bool:
    return isinstance(entry, dict) and not _missing(entry, rules) and not _wrong(entry, rules)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
