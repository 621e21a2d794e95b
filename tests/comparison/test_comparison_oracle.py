"""Oracle analysis against sets of pixels, panopticapi's rules, and what must hold for any segmentation."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from panoptic_segformer.comparison.oracle import ORACLES, oracle_prediction
from panoptic_segformer.comparison.overlaps import crowds, overlaps, pairs_best_first, segments
from panoptic_segformer.comparison.results import Prediction

CAT, DOG, SKY, SEA = 17, 18, 157, 200
THINGS, STUFF = (CAT, DOG), (SKY, SEA)
SIZE = (6, 8)


def as_prediction(ids, classes: dict[int, int], instances=None, crowd_ids=()) -> Prediction:
    """A prediction or truth of an id map and the class of each id."""
    ids = np.asarray(ids, dtype=np.int32)
    records = [
        {
            "id": id_,
            "category_id": category,
            "isthing": category in THINGS,
            "score": 0.9,
            "area": int((ids == id_).sum()),
            "iscrowd": int(id_ in crowd_ids),
        }
        for id_, category in classes.items()
    ]
    return Prediction(ids, records, instances)


def as_instance(mask, category: int, score: float) -> dict:
    encoded = rle.encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8)))
    segmentation = {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
    return {"category_id": category, "score": score, "segmentation": segmentation, "bbox": [0, 0, 1, 1]}


def pixel_sets(prediction: Prediction) -> dict[int, set[int]]:
    places = {record["id"]: set() for record in prediction.segments}
    for place, id_ in enumerate(prediction.segment_ids.ravel().tolist()):
        if id_ in places:
            places[id_].add(place)
    return places


def class_of(prediction: Prediction) -> dict[int, int]:
    return {record["id"]: record["category_id"] for record in prediction.segments}


def true_iou(predicted: set[int], true: set[int], labelled: set[int]) -> float:
    return len(predicted & true) / max(1, len(predicted & labelled | true))


def class_qualities(prediction: Prediction, truth: Prediction) -> dict[int, tuple[float, int]]:
    """By class: PQ, and the number of wrong segments, by the definition and with sets of pixels."""
    predicted, true = pixel_sets(prediction), pixel_sets(truth)
    is_crowd = dict(zip(true, crowds(truth).tolist(), strict=True))
    labelled = set().union(*true.values())
    names = class_of(prediction), class_of(truth)
    results = {}
    for category in (*THINGS, *STUFF):
        mine = [id_ for id_ in predicted if names[0][id_] == category]
        theirs = [id_ for id_ in true if names[1][id_] == category and not is_crowd[id_] and true[id_]]
        ious = {(m, t): true_iou(predicted[m], true[t], labelled) for m in mine for t in theirs}
        matched = {pair: iou for pair, iou in ious.items() if iou > 0.5}
        ignored = set().union(*(true[id_] for id_ in true if names[1][id_] == category and is_crowd[id_]))
        wrong = 0
        for id_ in set(mine) - {m for m, _ in matched}:
            uncounted = predicted[id_] - labelled | predicted[id_] & ignored
            wrong += 2 * len(uncounted) <= len(predicted[id_])
        total = len(matched) + (wrong + len(theirs) - len(matched)) / 2
        results[category] = (sum(matched.values()) / total if total else math.nan, wrong)
    return results


def assert_valid(prediction: Prediction) -> None:
    ids = [record["id"] for record in prediction.segments]
    assert ids == list(range(1, len(ids) + 1))
    areas = Counter(prediction.segment_ids.ravel().tolist())
    areas.pop(0, None)
    assert areas == {record["id"]: record["area"] for record in prediction.segments}
    stuff = [record["category_id"] for record in prediction.segments if record["category_id"] in STUFF]
    assert len(stuff) == len(set(stuff))
    assert all(record["isthing"] == (record["category_id"] in THINGS) for record in prediction.segments)
    assert prediction.segment_ids.dtype == np.int32
    assert prediction.instances is None


@st.composite
def maps(draw, with_crowds: bool = False, with_instances: bool = False) -> Prediction:
    """Rectangles painted over each other; of each class of stuff at most one segment."""
    ids, classes = np.zeros(SIZE, dtype=np.int32), {}
    rectangles = st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(0, 7), st.integers(1, 8))
    for _ in range(draw(st.integers(0, 6))):
        top, height, left, width = draw(rectangles)
        category = draw(st.sampled_from((*THINGS, *STUFF)))
        known = [id_ for id_, other in classes.items() if other == category and category in STUFF]
        id_ = known[0] if known else 256 * (len(classes) + 1)
        classes[id_] = category
        ids[top : top + height, left : left + width] = id_
    classes = {id_: category for id_, category in classes.items() if (ids == id_).any()}
    crowd_ids = ()
    if with_crowds:
        crowd_ids = [id_ for id_, category in classes.items() if category in THINGS and draw(st.booleans())]
    found = None
    if with_instances:
        found = []
        for score in sorted(draw(st.lists(st.floats(0, 1), max_size=4)), reverse=True):
            top, height, left, width = draw(rectangles)
            mask = np.zeros(SIZE)
            mask[top : top + height, left : left + width] = 1
            found.append(as_instance(mask, draw(st.sampled_from(THINGS)), score))
    return as_prediction(ids, classes, found, crowd_ids)


@given(maps(with_instances=True), maps(with_crowds=True))
def test_every_oracle_gives_a_valid_prediction(prediction, truth):
    for kinds in ORACLES.values():
        assert_valid(oracle_prediction(prediction, truth, kinds))


@given(maps())
def test_what_is_perfect_stays_perfect(truth):
    for kinds in ORACLES.values():
        corrected = oracle_prediction(truth, truth, kinds)
        same = corrected.segment_ids[..., None] == np.arange(len(truth.segments) + 1)
        assert sorted(class_of(corrected).values()) == sorted(class_of(truth).values())
        assert all((same[truth.segment_ids == record["id"]].all(axis=0)).any() for record in truth.segments)
        assert all(pq == 1 or math.isnan(pq) for pq, _ in class_qualities(corrected, truth).values())


@given(maps(), maps(with_crowds=True))
def test_true_masks_never_lower_the_quality_of_a_class(prediction, truth):
    before = class_qualities(prediction, truth)
    after = class_qualities(oracle_prediction(prediction, truth, ORACLES["mask"]), truth)
    for category, (pq, wrong) in before.items():
        assert math.isnan(after[category][0]) or after[category][0] >= pq - 1e-9
        assert after[category][1] <= wrong


@given(maps(), maps(with_crowds=True))
def test_true_locations_leave_no_wrong_segment(prediction, truth):
    """Segments of a panoptic map don't overlap, so each chosen one is found."""
    for name in ("location", "location and class", "location and mask", "location, class and mask"):
        corrected = oracle_prediction(prediction, truth, ORACLES[name])
        assert sum(wrong for _, wrong in class_qualities(corrected, truth).values()) == 0
    before = class_qualities(prediction, truth)
    after = class_qualities(oracle_prediction(prediction, truth, ORACLES["location"]), truth)
    assert all(math.isnan(pq) or not after[category][0] < pq for category, (pq, _) in before.items())


@given(maps(), maps(with_crowds=True))
def test_classes_are_those_of_the_best_fit(prediction, truth):
    predicted, true = pixel_sets(prediction), pixel_sets(truth)
    labelled, names = set().union(*true.values()), class_of(truth)
    expected = {}
    for id_, pixels in predicted.items():
        fits = {}
        for (other, places), is_crowd in zip(true.items(), crowds(truth), strict=True):
            known = len(pixels & labelled)
            fits[other] = len(pixels & places) / max(known, 1) if is_crowd else true_iou(pixels, places, labelled)
        best = max(fits, key=fits.get, default=None)
        found = best is not None and fits[best] > 0
        category = names[best] if found else class_of(prediction)[id_]
        expected.update(dict.fromkeys(pixels, (category, id_ if category in THINGS else category)))
    corrected = oracle_prediction(prediction, truth, ORACLES["class"])
    names = class_of(corrected)
    groups = {}
    for place, id_ in enumerate(corrected.segment_ids.ravel().tolist()):
        assert (id_ > 0) == (place in expected)
        if id_:
            category, group = expected[place]
            assert names[id_] == category
            assert groups.setdefault(group, id_) == id_
    assert len(groups) == len(set(groups.values())) == len(corrected.segments)


@given(maps(with_instances=True), maps())
def test_everything_corrected_is_the_truth_short_of_what_no_candidate_meets(prediction, truth):
    corrected = oracle_prediction(prediction, truth, ORACLES["location, class and mask"])
    true = {frozenset(pixels): class_of(truth)[id_] for id_, pixels in pixel_sets(truth).items()}
    found = {frozenset(pixels): class_of(corrected)[id_] for id_, pixels in pixel_sets(corrected).items()}
    assert found.items() <= true.items()
    candidates = list(pixel_sets(prediction).values())
    candidates += [set(np.flatnonzero(rle.decode(one["segmentation"]))) for one in prediction.instances]
    for missed in set(true) - set(found):  # Every candidate that meets it was better used elsewhere.
        assert sum(bool(candidate & missed) for candidate in candidates) <= len(found)


def test_class_and_mask_make_a_complete_set_perfect():
    truth = as_prediction([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]], {1: CAT, 2: DOG, 3: SKY, 4: SEA})
    shifted = as_prediction([[5, 5, 5, 6], [5, 5, 6, 6], [7, 7, 7, 8]], {5: SEA, 6: CAT, 7: DOG, 8: SKY})
    assert class_qualities(oracle_prediction(shifted, truth, ORACLES["mask"]), truth)[CAT][0] < 1
    corrected = oracle_prediction(shifted, truth, ORACLES["class and mask"])
    assert {pq for pq, _ in class_qualities(corrected, truth).values()} == {1}


def test_those_without_partner_keep_what_is_free():
    truth = as_prediction([[1, 1, 1, 1, 0, 0]], {1: CAT})
    prediction = as_prediction([[7, 7, 7, 8, 8, 9]], {7: CAT, 8: CAT, 9: DOG})
    corrected = oracle_prediction(prediction, truth, ORACLES["mask"])
    assert corrected.segment_ids.tolist() == [[1, 1, 1, 1, 2, 3]]
    assert [record["category_id"] for record in corrected.segments] == [CAT, CAT, DOG]


def test_locations_bring_back_what_merging_dropped():
    truth = as_prediction([[1, 1, 1, 2, 2, 2, 3, 3]], {1: CAT, 2: DOG, 3: SKY})
    instances = [
        as_instance([[1, 1, 1, 1, 0, 0, 0, 0]], CAT, 0.9),
        as_instance([[0, 0, 0, 1, 1, 1, 0, 0]], DOG, 0.1),
        as_instance([[0, 0, 0, 1, 1, 1, 1, 0]], DOG, 0.05),
        as_instance([[0, 0, 0, 0, 0, 0, 1, 1]], CAT, 0.01),
    ]
    prediction = as_prediction([[4, 4, 4, 4, 5, 5, 5, 5]], {4: CAT, 5: SKY}, instances)
    corrected = oracle_prediction(prediction, truth, ORACLES["location"])
    # The dog fits perfectly and so keeps the pixel that the cat claims too; of the sky half is wrong, so it is missing.
    assert corrected.segment_ids.tolist() == [[2, 2, 2, 1, 1, 1, 0, 0]]
    assert [record["category_id"] for record in corrected.segments] == [DOG, CAT]
    both = oracle_prediction(prediction, truth, ORACLES["location and class"])
    assert sorted(record["category_id"] for record in both.segments) == [CAT, DOG, SKY]


def test_a_mask_has_the_class_of_its_best_score():
    truth = as_prediction([[1, 1, 0, 0]], {1: DOG})
    mask = [[1, 1, 0, 0]]
    sure_of_the_wrong = [as_instance(mask, CAT, 0.8), as_instance(mask, DOG, 0.2)]
    nothing = as_prediction([[0, 0, 0, 0]], {}, sure_of_the_wrong)
    assert not oracle_prediction(nothing, truth, ORACLES["location"]).segments
    sure_of_the_right = as_prediction([[0, 0, 0, 0]], {}, sure_of_the_wrong[::-1])
    (segment,) = sure_of_the_right.instances[:1]
    assert segment["category_id"] == DOG
    assert len(oracle_prediction(sure_of_the_right, truth, ORACLES["location"]).segments) == 1


def test_crowds_lend_their_class_and_nothing_else():
    truth = as_prediction([[1, 1, 1, 1, 1, 1, 2, 2]], {1: CAT, 2: DOG}, crowd_ids=[1])
    prediction = as_prediction([[0, 3, 3, 3, 0, 0, 3, 0]], {3: DOG})
    assert [s["category_id"] for s in oracle_prediction(prediction, truth, ORACLES["class"]).segments] == [CAT]
    masked = oracle_prediction(prediction, truth, ORACLES["class and mask"])
    assert masked.segment_ids.tolist() == [[0, 1, 1, 1, 0, 0, 1, 0]]
    inside = as_prediction([[0, 3, 3, 3, 0, 0, 0, 0]], {3: CAT})
    assert not oracle_prediction(inside, truth, ORACLES["location, class and mask"]).segments


def test_nothing_to_correct_and_bad_input():
    prediction = as_prediction([[1, 0]], {1: CAT})
    assert oracle_prediction(prediction, prediction, frozenset()).segment_ids.tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="'size' is not known: choose among 'class', 'mask' and 'location'"):
        oracle_prediction(prediction, prediction, frozenset({"size"}))
    with pytest.raises(ValueError, match=r"\(1, 2\), the truth \(1, 3\): let the model predict at the size"):
        oracle_prediction(prediction, as_prediction([[1, 0, 0]], {1: CAT}), ORACLES["class"])


@given(maps(with_instances=True), maps(with_crowds=True))
def test_overlaps_agree_with_sets_of_pixels(prediction, truth):
    fits = overlaps(segments(prediction), segments(truth), crowds(truth))
    predicted, true = pixel_sets(prediction), pixel_sets(truth)
    labelled = set().union(*true.values())
    assert fits.shape == (len(predicted), len(true))
    for row, pixels in zip(fits, predicted.values(), strict=True):
        for value, places, is_crowd in zip(row, true.values(), crowds(truth), strict=True):
            share = len(pixels & places) / max(1, len(pixels & labelled))
            assert value == pytest.approx(share if is_crowd else true_iou(pixels, places, labelled))


@given(st.lists(st.lists(st.sampled_from((0.0, 0.2, 0.5, 0.9)), min_size=3, max_size=3), max_size=4))
def test_pairs_are_the_greatest_values_one_by_one(rows):
    values = np.array(rows).reshape(len(rows), 3)
    left, expected = values.copy(), []
    while left.size and left.max() > 0:
        row, column = divmod(int(left.argmax()), 3)
        expected.append((row, column))
        left[row] = left[:, column] = 0
    assert pairs_best_first(values) == expected
