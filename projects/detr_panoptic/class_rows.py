"""Which row of the class head stands for which class.

The released panoptic checkpoints have a row per category id of the dataset's json, used or not, and "no object" last.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.data.catalog import Metadata

from panoptic_segformer.data.categories import Categories

__all__ = ["ClassRows", "dataset_ids_of"]


@dataclass(frozen=True)
class ClassRows:
    """Rows of the class head, by label: things first, stuff behind them.

    Attributes:
        rows: the row of each label.
        num_rows: number of rows with the last one, of "no object".
        dataset_ids: the category id of each label in the dataset's json.
    """

    rows: tuple[int, ...]
    num_rows: int
    dataset_ids: tuple[int, ...]

    @classmethod
    def of_labels(cls, dataset_ids: tuple[int, ...]) -> ClassRows:
        """Return one row per label, in their order."""
        return cls(tuple(range(len(dataset_ids))), len(dataset_ids) + 1, dataset_ids)

    @classmethod
    def of_category_ids(cls, dataset_ids: tuple[int, ...], num_classes: int) -> ClassRows:
        """Return one row per number below `num_classes`; a class has that of its category id.

        Raises: ValueError: if a category id has no row.
        """
        outside = [id_ for id_ in dataset_ids if not 0 <= id_ < num_classes]
        if outside:
            raise ValueError(
                f"category id {outside[0]} of the dataset is not below MODEL.DETR.NUM_CLASSES, which is {num_classes}: "
                f"set the key to {max(dataset_ids) + 1} or more, or MODEL.DETR.RAW_CATEGORY_IDS to False"
            )
        return cls(dataset_ids, num_classes + 1, dataset_ids)


def dataset_ids_of(metadata: Metadata, categories: Categories) -> tuple[int, ...]:
    """Return the category ids that a dataset's json has for things and stuff, in the order of their labels."""
    things = {value: key for key, value in metadata.thing_dataset_id_to_contiguous_id.items()}
    stuff = {value: key for key, value in metadata.stuff_dataset_id_to_contiguous_id.items()}
    return (*(things[id_] for id_ in categories.thing_ids), *(stuff[id_] for id_ in categories.stuff_ids))
