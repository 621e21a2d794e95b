"""The thing and stuff classes of a dataset, and where their labels meet the ids of Detectron2's metadata.

Models count things from 0 and stuff from 0; metadata counts both together ("standard" form) or stuff after an
extra class named "things" ("separated" form, Panoptic FPN). This is the only place that knows the difference.
Shape legend: K_th, K_st number of thing and stuff classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

__all__ = ["Categories", "Color"]

Color = tuple[int, int, int]  # red, green, blue in [0, 255]

# Name of the class that the "separated" form puts before the stuff classes; it stands for all things.
_ALL_THINGS = "things"


@dataclass(frozen=True)
class Categories:
    """Classes of one dataset: label k of a thing (stuff) is entry k of each thing (stuff) tuple.

    Attributes:
        thing_ids: K_th contiguous ids of the metadata in increasing order; stuff_ids: K_st likewise.
        thing_names, stuff_names: names of the classes.
        thing_colors, stuff_colors: red, green, blue in [0, 255].
    """

    thing_ids: tuple[int, ...]
    stuff_ids: tuple[int, ...]
    thing_names: tuple[str, ...]
    stuff_names: tuple[str, ...]
    thing_colors: tuple[Color, ...]
    stuff_colors: tuple[Color, ...]

    @property
    def num_things(self) -> int:
        """Number of thing classes K_th."""
        return len(self.thing_ids)

    @property
    def num_stuff(self) -> int:
        """Number of stuff classes K_st."""
        return len(self.stuff_ids)

    @property
    def _identity(self) -> tuple[tuple, ...]:
        return self.thing_ids, self.stuff_ids, self.thing_names, self.stuff_names

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Categories:
        """Return the classes of a panoptic dataset's metadata, ours or Detectron2's own in either form.

        Raises: ValueError: if the metadata has no thing and stuff classes (says what it lacks).
        """
        _check_metadata(metadata)
        thing_ids = tuple(sorted(metadata.thing_dataset_id_to_contiguous_id.values()))
        stuff_ids = tuple(sorted(_stuff_id_map(metadata).values()))
        return cls(
            thing_ids,
            stuff_ids,
            tuple(metadata.thing_classes[i] for i in thing_ids),
            tuple(metadata.stuff_classes[i] for i in stuff_ids),
            tuple(_color(metadata.thing_colors[i]) for i in thing_ids),
            tuple(_color(metadata.stuff_colors[i]) for i in stuff_ids),
        )

    @classmethod
    def of_datasets(cls, names: tuple[str, ...]) -> Categories:
        """Return the classes that the named datasets share.

        Raises: ValueError: if no dataset is named, or two of them differ in their classes (names both).
        """
        if not names:
            raise ValueError("no dataset is named: give at least one in DATASETS.TRAIN or DATASETS.TEST")
        first, *others = (cls.from_metadata(MetadataCatalog.get(name)) for name in names)
        for name, other in zip(names[1:], others, strict=True):
            if other._identity != first._identity:
                raise ValueError(
                    f"datasets {names[0]!r} ({first.num_things} thing, {first.num_stuff} stuff classes) and "
                    f"{name!r} ({other.num_things} thing, {other.num_stuff} stuff classes) differ in their "
                    "classes: datasets that are used together need equal categories in equal order"
                )
        return first


def _stuff_id_map(metadata: Metadata) -> dict[int, int]:
    """Return dataset id -> contiguous id of the real stuff classes, without "things" of the separated form."""
    ids = metadata.stuff_dataset_id_to_contiguous_id
    # A real category may have id 0, so the name decides and not the number.
    if 0 in ids and metadata.stuff_classes[ids[0]] == _ALL_THINGS:
        return {key: value for key, value in ids.items() if key != 0}
    return dict(ids)


def _check_metadata(metadata: Metadata) -> None:
    needed = [
        f"{kind}_{what}" for kind in ("thing", "stuff") for what in ("dataset_id_to_contiguous_id", "classes", "colors")
    ]
    missing = [key for key in needed if metadata.get(key) is None]
    if missing:
        raise ValueError(
            f"dataset {metadata.get('name')!r} is no panoptic dataset, its metadata lacks {', '.join(missing)}: "
            "register it with DATASETS.REGISTER, or use one of Detectron2's panoptic datasets"
        )


def _color(values: Any) -> Color:
    red, green, blue = (int(value) for value in values)
    return red, green, blue
