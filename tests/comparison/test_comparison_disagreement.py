from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segformer.comparison.disagreement import disagreement, disagreement_map
from panoptic_segformer.comparison.matching import NumberedSegments, same_segments
from panoptic_segformer.comparison.results import Prediction

CAR, PERSON, SKY = 3, 1, 200


def prediction(ids, classes):
    """A prediction from its id map and the class of each id."""
    ids = np.asarray(ids, np.int32)
    segments = [
        {"id": id_, "category_id": category, "isthing": category != SKY, "score": None, "area": int((ids == id_).sum())}
        for id_, category in classes.items()
    ]
    return Prediction(ids, segments)


@st.composite
def predictions(draw, least=2, most=4):
    """Predictions of one small picture: blocks of two pixels, so that segments often match; some ids unlisted."""
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    drawn = []
    for _ in range(draw(st.integers(least, most))):
        values = draw(st.lists(st.integers(0, 4), min_size=height * width, max_size=height * width))
        ids = np.array(values).reshape(height, width).repeat(2, axis=1)
        classes = draw(st.dictionaries(st.integers(1, 4), st.sampled_from([CAR, PERSON, SKY])))
        drawn.append(prediction(ids * 1000, {1000 * id_: category for id_, category in classes.items()}))
    return drawn


def pixel_by_pixel(results):
    """The definition, in plain loops over pixels and pairs."""
    height, width = results[0].segment_ids.shape
    classes = [{segment["id"]: segment["category_id"] for segment in result.segments} for result in results]
    pairs = list(combinations(range(len(results)), 2))
    share = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for a, b in pairs:
                id_a, id_b = results[a].segment_ids[y, x], results[b].segment_ids[y, x]
                class_a, class_b = classes[a].get(id_a), classes[b].get(id_b)
                differs = class_a != class_b
                if not differs and class_a in (CAR, PERSON):
                    mask_a, mask_b = results[a].segment_ids == id_a, results[b].segment_ids == id_b
                    differs = (mask_a & mask_b).sum() / (mask_a | mask_b).sum() <= 0.5
                share[y, x] += differs / len(pairs)
    return share


@given(predictions())
def test_disagreement_map_is_its_definition(results):
    np.testing.assert_allclose(disagreement_map(results), pixel_by_pixel(results), atol=1e-12)
    assert disagreement(results) == pytest.approx(pixel_by_pixel(results).mean())


@given(predictions(), st.randoms())
def test_disagreement_map_does_not_depend_on_the_order(results, random):
    shuffled = random.sample(results, len(results))
    assert (disagreement_map(shuffled) == disagreement_map(results)).all()


@given(predictions(least=1, most=1), st.integers(2, 4))
def test_equal_maps_agree_whatever_their_ids(results, count):
    (result,) = results
    renamed = Prediction(result.segment_ids * 7, [{**one, "id": one["id"] * 7} for one in reversed(result.segments)])
    assert not disagreement_map([result, *[renamed] * (count - 1)]).any()


def test_one_or_no_prediction_disagrees_with_nothing():
    alone = disagreement_map([prediction([[1, 2, 0]], {1: CAR, 2: SKY})])
    assert alone.shape == (1, 3)
    assert not alone.any()
    assert disagreement_map([]).shape == (0, 0)
    assert disagreement([]) == disagreement([prediction([[1]], {1: CAR})]) == 0


def test_one_thing_or_two_disagree_but_stuff_has_no_instances():
    whole, halves = [[1, 1, 1, 1]], [[1, 1, 2, 2]]
    assert (disagreement_map([prediction(whole, {1: CAR}), prediction(halves, {1: CAR, 2: CAR})]) == 1).all()
    assert not disagreement_map([prediction(whole, {1: SKY}), prediction(halves, {1: SKY, 2: SKY})]).any()


def test_a_third_model_halves_no_vote():
    cars, person = prediction([[1, 1]], {1: CAR}), prediction([[1, 1]], {1: PERSON})
    assert disagreement([cars, cars, person]) == pytest.approx(2 / 3)
    assert disagreement([cars, person]) == 1


def test_iou_of_one_half_is_no_match():
    first, second = prediction([[1, 1, 0]], {1: CAR}), prediction([[1, 1, 1]], {1: CAR})
    assert same_segments(NumberedSegments.of(first), NumberedSegments.of(second))[1, 1]  # 2 / 3
    half = prediction([[1, 0, 0]], {1: CAR})
    assert not same_segments(NumberedSegments.of(half), NumberedSegments.of(first))[1, 1]  # 1 / 2


def test_other_sizes_are_named():
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 1\)"):
        disagreement_map([prediction([[1, 1]], {1: CAR}), prediction([[1], [1]], {1: CAR})])
