"""Classes from the metadata of either form."""

from __future__ import annotations

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.datasets import register_datasets


def test_from_metadata_counts_standard_coco() -> None:
    categories = Categories.from_metadata(MetadataCatalog.get("coco_2017_val_panoptic"))
    assert (categories.num_things, categories.num_stuff) == (80, 53)
    assert categories.thing_ids == tuple(range(80))
    assert categories.stuff_ids == tuple(range(80, 133))
    assert categories.thing_names + categories.stuff_names == tuple(entry["name"] for entry in COCO_CATEGORIES)
    assert categories.stuff_colors[0] == tuple(COCO_CATEGORIES[80]["color"])


def test_from_metadata_leaves_the_class_of_all_things_out_of_separated_coco() -> None:
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    categories = Categories.from_metadata(metadata)
    assert (categories.num_things, categories.num_stuff) == (80, 53)
    assert categories.stuff_ids == tuple(range(1, 54))
    assert categories.stuff_names[0] == "banner"


def test_from_metadata_keeps_a_real_stuff_class_with_id_0(files) -> None:
    files.content["categories"] = [
        {"id": 0, "name": "wall", "isthing": 0, "color": [1, 2, 3]},
        {"id": 1, "name": "door", "isthing": 1, "color": [4, 5, 6]},
    ]
    files.save()
    register_datasets(files.config())
    categories = Categories.from_metadata(MetadataCatalog.get("small"))
    assert categories == Categories((1,), (0,), ("door",), ("wall",), ((4, 5, 6),), ((1, 2, 3),))


def test_from_metadata_orders_mixed_things_and_stuff_by_id(files) -> None:
    register_datasets(files.config())
    categories = Categories.from_metadata(MetadataCatalog.get("small"))
    assert categories.thing_ids == (0, 2)
    assert categories.stuff_ids == (1, 3)
    assert categories.thing_names == ("cat", "dog")
    assert categories.stuff_names == ("grass", "sky")
    assert categories.thing_colors == ((200, 0, 0), (0, 200, 0))


def test_from_metadata_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"'coco_2017_val' is no panoptic dataset.*stuff_classes"):
        Categories.from_metadata(MetadataCatalog.get("coco_2017_val"))


def test_of_datasets_refuses_datasets_that_differ() -> None:
    names = ("coco_2017_train_panoptic", "coco_2017_val_panoptic")
    assert Categories.of_datasets(names).num_things == 80
    with pytest.raises(ValueError, match=r"'coco_2017_val_panoptic_separated'.*differ in their classes"):
        Categories.of_datasets((*names, "coco_2017_val_panoptic_separated"))


def test_of_datasets_refuses_no_dataset() -> None:
    with pytest.raises(ValueError, match="no dataset is named"):
        Categories.of_datasets(())
