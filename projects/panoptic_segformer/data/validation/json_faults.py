"""Faults of a panoptic json that well-formed entries have together; no other file is needed to find them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..names import leaves_folder
from .faults import Faults, Finding, Severity
from .form_faults import Document, values

__all__ = ["JSON_FAULTS", "Content"]

JSON_FAULTS: Faults[Content] = Faults()

# With id 0, Detectron2's "separated" datasets call by it what is no class of its own.
_RESERVED_NAME = "things"


@dataclass(frozen=True)
class Content:
    """The well-formed entries of a json.

    Attributes:
        images, annotations, categories: the entries.
        picture_ids, annotated_ids, category_ids, used_category_ids: ids of all entries, those that are not
            well-formed included: what refers to one of them is not at fault.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    picture_ids: set[Any]
    annotated_ids: set[Any]
    category_ids: set[Any]
    used_category_ids: set[Any]

    @classmethod
    def of(cls, document: Document) -> Content:
        """Return the content of a document."""
        return cls(
            document.sound_images(),
            document.sound_annotations(),
            document.sound_categories(),
            values(document.entries("images"), "id"),
            values(document.entries("annotations"), "image_id"),
            values(document.entries("categories"), "id"),
            values(document.segments(), "category_id"),
        )

    @property
    def category_of_id(self) -> dict[int, dict[str, Any]]:
        """The categories by id."""
        return {category["id"]: category for category in self.categories}

    def pairs(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the annotations whose picture is there, each behind its picture."""
        images = {image["id"]: image for image in self.images}
        return [
            (images[annotation["image_id"]], annotation)
            for annotation in self.annotations
            if annotation["image_id"] in images
        ]

    def segments(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any] | None]]:
        """Yield every segment: where it is, its entry, its category (None if that is unknown)."""
        categories = self.category_of_id
        for annotation in self.annotations:
            for segment in annotation["segments_info"]:
                where = f"{annotation['file_name']}, segment {segment['id']}"
                yield where, segment, categories.get(segment["category_id"])


@JSON_FAULTS.add(Severity.ERROR, "give every picture an id of its own")
def picture_id_repeated(content: Content) -> Iterator[Finding]:
    """Several entries of 'images' have one id."""
    yield from _repeated("picture id", ((image["id"], image["file_name"]) for image in content.images))


@JSON_FAULTS.add(Severity.ERROR, "keep one annotation of each picture")
def picture_annotated_twice(content: Content) -> Iterator[Finding]:
    """Several annotations belong to one picture."""
    pairs = ((annotation["image_id"], annotation["file_name"]) for annotation in content.annotations)
    yield from _repeated("picture id", pairs)


@JSON_FAULTS.add(Severity.ERROR, "give every category an id of its own")
def category_id_repeated(content: Content) -> Iterator[Finding]:
    """Several categories have one id."""
    yield from _repeated("category id", ((category["id"], category["name"]) for category in content.categories))


@JSON_FAULTS.add(Severity.ERROR, "give every category a name of its own: results are listed by name")
def category_name_repeated(content: Content) -> Iterator[Finding]:
    """Several categories have one name."""
    yield from _repeated("category name", ((category["name"], category["id"]) for category in content.categories))


@JSON_FAULTS.add(Severity.ERROR, "choose another name or id")
def category_name_reserved(content: Content) -> Iterator[Finding]:
    """A stuff category has id 0 and the name "things", by which Detectron2 means all things together."""
    for category in content.categories:
        if category["id"] == 0 and category["name"] == _RESERVED_NAME and not category["isthing"]:
            yield Finding("category id 0", repr(category["name"]), "another name")


@JSON_FAULTS.add(Severity.ERROR, "give every segment of a picture an id of its own, in json and png")
def segment_id_repeated(content: Content) -> Iterator[Finding]:
    """Several segments of one picture have one id."""
    for annotation in content.annotations:
        pairs = ((segment["id"], segment["category_id"]) for segment in annotation["segments_info"])
        yield from _repeated(f"{annotation['file_name']}, segment", pairs, "categories")


@JSON_FAULTS.add(Severity.ERROR, "add the picture to 'images' or remove the annotation")
def annotation_without_picture(content: Content) -> Iterator[Finding]:
    """An annotation belongs to a picture id that 'images' lacks."""
    for annotation in content.annotations:
        if annotation["image_id"] not in content.picture_ids:
            yield Finding(annotation["file_name"], f"picture id {annotation['image_id']}", "an id of 'images'")


@JSON_FAULTS.add(Severity.WARNING, "annotate the picture or remove it: it is not used")
def picture_without_annotation(content: Content) -> Iterator[Finding]:
    """A picture has no annotation."""
    for image in content.images:
        if image["id"] not in content.annotated_ids:
            yield Finding(image["file_name"], f"picture id {image['id']}")


@JSON_FAULTS.add(Severity.ERROR, "add the category or correct the segment")
def category_unknown(content: Content) -> Iterator[Finding]:
    """A segment's category id is none of 'categories'."""
    for where, segment, _ in content.segments():
        if segment["category_id"] not in content.category_ids:
            yield Finding(where, f"category id {segment['category_id']}", "an id of 'categories'")


@JSON_FAULTS.add(Severity.ERROR, "give the class's pixels one id, in json and png")
def stuff_twice(content: Content) -> Iterator[Finding]:
    """A stuff class has several segments in one picture: no prediction can match them all."""
    categories = content.category_of_id
    for annotation in content.annotations:
        ids = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
        for category_id, count in Counter(ids.values()).items():
            category = categories.get(category_id)
            if count > 1 and category is not None and not category["isthing"]:
                yield Finding(f"{annotation['file_name']}, {category['name']}", f"{count} segments", 1)


@JSON_FAULTS.add(Severity.ERROR, "set iscrowd to 0: crowds are groups of things", is_fixable=True)
def crowd_on_stuff(content: Content) -> Iterator[Finding]:
    """A segment of a stuff class is a crowd: it trains nothing and is not evaluated."""
    for where, segment, category in content.segments():
        if segment.get("iscrowd") and category is not None and not category["isthing"]:
            yield Finding(f"{where} ({category['name']})", "iscrowd 1", 0)


@JSON_FAULTS.add(Severity.WARNING, "remove one of the entries, unless it is meant to count twice")
def picture_shared(content: Content) -> Iterator[Finding]:
    """Several entries of 'images' name one file."""
    yield from _repeated("picture", ((image["file_name"], image["id"]) for image in content.images), "ids")


@JSON_FAULTS.add(Severity.WARNING, "remove one of the annotations, unless it is meant to count twice")
def png_shared(content: Content) -> Iterator[Finding]:
    """Several annotations name one png."""
    pairs = ((annotation["file_name"], annotation["image_id"]) for annotation in content.annotations)
    yield from _repeated("png", pairs, "picture ids")


@JSON_FAULTS.add(Severity.WARNING, "use names relative to the folder: it can't be moved otherwise")
def name_outside_folder(content: Content) -> Iterator[Finding]:
    """A file name is absolute or leads out of its folder."""
    for entry in (*content.images, *content.annotations):
        if leaves_folder(entry["file_name"]):
            yield Finding(entry["file_name"])


@JSON_FAULTS.add(Severity.WARNING, "annotate the picture or remove it: all of it is void")
def no_segment(content: Content) -> Iterator[Finding]:
    """An annotation has no segment."""
    for annotation in content.annotations:
        if not annotation["segments_info"]:
            yield Finding(annotation["file_name"], "0 segments")


@JSON_FAULTS.add(Severity.NOTE, "the class can't be learned from these pictures, and its quality is not defined")
def category_unused(content: Content) -> Iterator[Finding]:
    """No segment belongs to a category."""
    for category in content.categories:
        if category["id"] not in content.used_category_ids:
            yield Finding(category["name"], f"category id {category['id']}")


def _repeated(what: str, pairs: Iterable[tuple[Any, Any]], others: str = "entries") -> Iterator[Finding]:
    """Yield the keys that several (key, value) have, with their values."""
    values: dict[Any, list[Any]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    for key, found in values.items():
        if len(found) > 1:
            yield Finding(f"{what} {key}", f"{len(found)} {others} ({', '.join(map(str, found[:3]))})", 1)
