"""The order of the classes, for datasets with things first, things among stuff, and overlapping ids."""

from __future__ import annotations

import torch

from maskformer.classes import JointClasses
from panoptic_segformer.data.categories import Categories


def classes_of(thing_ids, stuff_ids) -> JointClasses:
    number = len(thing_ids), len(stuff_ids)
    names = [tuple(f"{kind} {i}" for i in range(n)) for kind, n in zip(("thing", "stuff"), number, strict=True)]
    colors = [((0, 0, 0),) * n for n in number]
    return JointClasses(Categories(thing_ids, stuff_ids, *names, *colors))


def test_coco_has_things_first():
    classes = classes_of((0, 1, 2), (3, 4))
    assert len(classes) == 5
    assert classes.category_ids.tolist() == classes.channels.tolist() == [0, 1, 2, 3, 4]
    assert classes.is_thing.tolist() == [True, True, True, False, False]
    assert classes.of_example(torch.tensor([2, 0]), torch.tensor([1])).tolist() == [2, 0, 4]


def test_mixed_ids_stay_in_their_order_as_in_released_checkpoints():
    classes = classes_of((1, 4), (0, 2, 3))
    assert classes.category_ids.tolist() == [0, 1, 2, 3, 4]
    assert classes.is_thing.tolist() == [False, True, False, False, True]
    labels = classes.of_example(torch.tensor([0, 1]), torch.tensor([0, 1, 2]))
    assert labels.tolist() == [1, 4, 0, 2, 3]


def test_overlapping_ids_of_the_separated_form():
    classes = classes_of((0, 1), (1, 2))
    assert classes.category_ids.tolist() == [0, 1, 1, 2]
    assert classes.is_thing.tolist() == [True, True, False, False]
    assert classes.channels.tolist() == [0, 0, 1, 2]
    assert classes.num_channels == 3


def test_a_checkpoint_has_none_of_it():
    assert not classes_of((0,), (1,)).state_dict()
