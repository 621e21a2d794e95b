"""Classes of different models meet."""

from __future__ import annotations

import numpy as np
from comparison_fakes import JOINT, SEPARATED

from panoptic_segformer.comparison.alignment import align_classes, translate
from panoptic_segformer.comparison.conversion import ModelClasses
from panoptic_segformer.comparison.results import Category, Prediction


def category(id_, name, isthing=False):
    return Category(id_, name, isthing, (1, 2, 3))


TRUTH = [category(1, "person", True), category(5, "grass"), category(9, "sky")]


def test_id_and_name_agree():
    alignment = align_classes(TRUTH, [TRUTH])
    assert alignment.ids == [{1: 1, 5: 5, 9: 9}]
    assert list(alignment.categories) == TRUTH


def test_name_decides_where_ids_differ():
    alignment = align_classes(TRUTH, [[category(5, "sky"), category(0, "grass")]])
    assert alignment.ids == [{5: 9, 0: 5}]
    assert list(alignment.categories) == TRUTH


def test_equal_id_of_another_name_gets_an_id_of_its_own():
    alignment = align_classes(TRUTH, [[category(5, "road"), category(7, "cat", True)]])
    assert alignment.ids == [{5: 10, 7: 7}]
    assert [(c.id, c.name) for c in alignment.categories[3:]] == [(10, "road"), (7, "cat")]


def test_endings_that_detectron2_drops_do_not_count():
    truth = [category(187, "sky-other-merged"), category(193, "grass-merged"), category(199, "wall-brick")]
    alignment = align_classes(truth, [[category(187, "sky"), category(9, "grass"), category(199, "wall")]])
    assert alignment.ids == [{187: 187, 9: 193, 199: 200}]
    assert alignment.categories[3].name == "wall"


def test_coco_in_both_forms_is_the_same():
    joint, separated = (list(ModelClasses.of_dataset(name).categories.values()) for name in (JOINT, SEPARATED))
    alignment = align_classes(joint, [joint, separated])
    assert len(joint) == 133
    assert alignment.ids == [{c.id: c.id for c in joint}] * 2
    assert list(alignment.categories) == joint


def test_two_models_share_what_the_truth_lacks():
    first, second = [category(5, "road")], [category(3, "road"), category(9, "sky")]
    alignment = align_classes(TRUTH, [first, second])
    assert alignment.ids == [{5: 10}, {3: 10, 9: 9}]


def test_without_a_truth_the_models_make_up_the_classes():
    alignment = align_classes([], [[category(1, "cat")], [], [category(1, "dog"), category(2, "cat")]])
    assert [(c.id, c.name) for c in alignment.categories] == [(1, "cat"), (2, "dog")]
    assert alignment.ids == [{1: 1}, {}, {1: 2, 2: 1}]


def test_translation_takes_what_is_a_thing_from_the_shared_classes():
    segments = [{"id": 1, "category_id": 3, "isthing": False, "score": None, "area": 4}]
    prediction = Prediction(np.ones((2, 2), np.int32), segments, [{"category_id": 3, "score": 0.5}])
    translated = translate(prediction, {3: 1}, {c.id: c for c in TRUTH})
    assert translated.segments == [{"id": 1, "category_id": 1, "isthing": True, "score": None, "area": 4}]
    assert translated.instances == [{"category_id": 1, "score": 0.5}]
    assert segments[0]["category_id"] == 3
