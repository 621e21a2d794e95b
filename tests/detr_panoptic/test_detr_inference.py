"""Rules of DETR's merging on maps made by hand, and against the authors' procedure written out step by step."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from detr_panoptic.inference import (
    InferenceOptions,
    Predictions,
    _resize_nearest,
    instance_result,
    merge_by_masks,
    merge_by_pixels,
)
from panoptic_segformer.inference.merging import MergeOptions

CAT, DOG, SKY, GRASS = range(4)
NUM_THINGS = 2
MERGING = MergeOptions(
    mask_threshold=0.5,
    score_threshold=0.25,
    thing_overlap_threshold=0.4,
    stuff_overlap_threshold=0.2,
    class_exponent=1.0,
    mask_exponent=2.0,
)


def predictions(classes: list[int], logits: torch.Tensor, probs: list[float] | None = None) -> Predictions:
    categories = torch.tensor(classes, dtype=torch.int64)
    number = len(classes)
    return Predictions(
        class_probs=torch.tensor(probs) if probs else torch.linspace(0.9, 0.99, number),
        is_object=torch.ones(number, dtype=torch.bool),
        category_ids=categories,
        is_thing=categories < NUM_THINGS,
        boxes=torch.full((number, 4), 0.5),
        logits=logits,
    )


def rows_map(*rows: list[float]) -> torch.Tensor:
    """Mask logits (N, 8, 12) that are constant along each row's blocks: one list of 4 block values per query."""
    return (
        torch.tensor(rows, dtype=torch.float32)[:, None, :].repeat_interleave(3, dim=2).expand(-1, 8, -1).contiguous()
    )


def authors_procedure(found: Predictions, image_size, size) -> tuple[np.ndarray, list[int]]:
    """The released post-processing: map of positions in the list of remaining queries, and these queries.

    Masks are resized and compared by softmax, the ids resized to the nearest, and only the first pass knows that
    queries of one stuff class belong together.
    """
    remaining = list(range(len(found.class_probs)))
    first_pass = True
    while remaining:
        masks = F.interpolate(found.logits[remaining][None], image_size, mode="bilinear", align_corners=False)[0]
        positions = masks.softmax(0).argmax(0).numpy()
        if first_pass:
            of_class: dict[int, list[int]] = {}
            for position, query in enumerate(remaining):
                if not found.is_thing[query]:
                    of_class.setdefault(int(found.category_ids[query]), []).append(position)
            for same in of_class.values():
                for position in same:
                    positions[positions == position] = same[0]
        rows, columns = (
            [math.floor(Fraction(2 * new + 1, 2) * length / size[axis]) for new in range(size[axis])]
            for axis, length in enumerate(image_size)
        )
        positions = positions[np.ix_(rows, columns)]
        kept = [query for position, query in enumerate(remaining) if (positions == position).sum() > 4]
        if len(kept) == len(remaining):
            return positions, remaining
        first_pass, remaining = False, kept
    return np.zeros(size, dtype=np.uint8), []


def assert_consistent(ids: torch.Tensor, records: list[dict], size) -> None:
    assert ids.shape == size
    assert ids.dtype == torch.int32
    assert [record["id"] for record in records] == list(range(1, len(records) + 1))
    assert [record["area"] for record in records] == [int((ids == record["id"]).sum()) for record in records]
    if records:
        assert ids.min() == 1
        assert all(record["area"] > 4 for record in records)


@given(
    classes=st.lists(st.integers(0, 3), min_size=0, max_size=7),
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_compatible_merging_is_the_authors_procedure(classes, seed, size):
    generator = torch.Generator().manual_seed(seed)
    found = predictions(classes, 3 * torch.randn(len(classes), 3, 4, generator=generator))
    ids, records = merge_by_pixels(found, (11, 15), size, compat_dedup=True)
    expected, queries = authors_procedure(found, (11, 15), size)
    assert_consistent(ids, records, size)
    assert [record["category_id"] for record in records] == [classes[query] for query in queries]
    assert np.array_equal(ids.numpy(), expected + 1 if queries else expected)


@given(classes=st.lists(st.integers(0, 3), min_size=1, max_size=7), seed=st.integers(0, 10_000))
def test_sane_merging_has_each_stuff_class_once(classes, seed):
    generator = torch.Generator().manual_seed(seed)
    found = predictions(classes, 3 * torch.randn(len(classes), 3, 4, generator=generator))
    ids, records = merge_by_pixels(found, (11, 15), (22, 30), compat_dedup=False)
    assert_consistent(ids, records, (22, 30))
    stuff = [record["category_id"] for record in records if not record["isthing"]]
    assert len(stuff) == len(set(stuff))
    # No query is lost that has pixels of its own.
    masks = F.interpolate(found.logits[None], (11, 15), mode="bilinear", align_corners=False)[0]
    winners = masks.argmax(0).repeat_interleave(2, 0).repeat_interleave(2, 1)
    areas = winners.flatten().bincount(minlength=len(classes))
    assert {classes[query] for query in (areas > 4).nonzero()[:, 0].tolist()} <= {r["category_id"] for r in records}


def test_pixels_of_a_second_stuff_query_go_to_the_strongest_rest():
    """The quirk: the second sky is dropped although the first took its pixels over, and the cat gets these."""
    logits = rows_map([5, 0, 0, 0], [0, 1, 5, 1], [0, 2, 1, 5])
    found = predictions([SKY, SKY, CAT], logits)
    compatible, records = merge_by_pixels(found, (8, 12), (8, 12), compat_dedup=True)
    assert [(r["category_id"], r["area"]) for r in records] == [(SKY, 24), (CAT, 72)]
    assert compatible[0].tolist() == [1] * 3 + [2] * 9
    sane, records = merge_by_pixels(found, (8, 12), (8, 12), compat_dedup=False)
    assert [(r["category_id"], r["area"]) for r in records] == [(SKY, 48), (CAT, 48)]
    assert sane[0].tolist() == [1] * 3 + [2] * 3 + [1] * 3 + [2] * 3


def test_instances_of_one_thing_class_stay_apart():
    found = predictions([CAT, CAT], rows_map([5, 5, 0, 0], [0, 0, 5, 5]), [0.9, 0.95])
    _, records = merge_by_pixels(found, (8, 12), (8, 12), compat_dedup=True)
    assert records == [
        {"id": 1, "category_id": CAT, "isthing": True, "score": pytest.approx(0.9), "area": 48},
        {"id": 2, "category_id": CAT, "isthing": True, "score": pytest.approx(0.95), "area": 48},
    ]


@pytest.mark.parametrize(("area", "segments"), [(4, [SKY]), (5, [SKY, CAT])])
def test_segments_of_four_pixels_are_dropped(area, segments):
    logits = torch.zeros(2, 8, 12)
    logits[1].view(-1)[:area] = 1
    logits[1].view(-1)[area:] = -1
    _, records = merge_by_pixels(predictions([SKY, CAT], logits), (8, 12), (8, 12), compat_dedup=True)
    assert [record["category_id"] for record in records] == segments


@pytest.mark.parametrize("compat_dedup", [True, False])
@pytest.mark.parametrize("classes", [[], [CAT, SKY, SKY]])
def test_void_is_left_where_nothing_is(classes, compat_dedup):
    """Without queries, and where the result is too small for any segment."""
    found = predictions(classes, torch.zeros(len(classes), 2, 2))
    ids, records = merge_by_pixels(found, (8, 12), (2, 2), compat_dedup=compat_dedup)
    assert records == []
    assert ids.tolist() == [[0, 0], [0, 0]]


@given(old=st.tuples(*[st.integers(1, 40)] * 2), new=st.tuples(*[st.integers(1, 40)] * 2))
def test_nearest_is_pillows(old, new):
    values = np.arange(old[0] * old[1], dtype=np.int32).reshape(old)
    expected = np.asarray(Image.fromarray(values).resize(new[::-1], Image.NEAREST))
    found = _resize_nearest(torch.from_numpy(values.copy()), new).numpy()
    # Where a centre falls between two pixels, Pillow's sums of steps round to either.
    rows, columns = (
        [i for i in range(after) if (2 * i + 1) * before % (2 * after)] for after, before in zip(new, old, strict=True)
    )
    assert np.array_equal(found[np.ix_(rows, columns)], expected[np.ix_(rows, columns)])
    assert found.shape == new


def test_queries_that_can_become_segments():
    options = InferenceOptions(0.85, True, None, False, 0.5)
    found = dataclasses.replace(
        predictions([CAT, CAT, SKY, SKY], torch.zeros(4, 2, 2), [0.84, 0.86, 0.86, 0.3]),
        is_object=torch.tensor([True, True, False, False]),
    )
    assert found.is_segment(options).tolist() == [False, True, False, False]
    # Mask-wise merging bounds the score by the class probability alone.
    assert found.is_segment(dataclasses.replace(options, merging=MERGING)).all()
    strict = dataclasses.replace(MERGING, score_threshold=0.85)
    assert found.is_segment(dataclasses.replace(options, merging=strict)).tolist() == [False, True, True, False]


def test_mask_wise_merging_paints_by_score():
    """The better cat is painted first; the dog below it has too little left; both skies are one segment."""
    logits = rows_map([-9, -9, -9, 9], [9, 9, -9, -9], [9, 9, -9, -9], [-9, -9, 9, -9])
    found = predictions([SKY, DOG, CAT, SKY], logits, [0.8, 0.7, 0.9, 0.6])
    ids, records = merge_by_masks(found, (8, 12), MERGING)
    assert_consistent(ids, records, (8, 12))
    assert [(r["category_id"], r["isthing"], r["area"]) for r in records] == [(CAT, True, 48), (SKY, False, 48)]
    assert records[0]["score"] == pytest.approx(0.9, abs=0.04)  # one pixel more is counted than there are
    assert ids[0].tolist() == [1] * 6 + [2] * 6


def test_instances_are_things_best_first_in_pixels_of_the_result():
    logits = rows_map([9, -9, -9, -9], [9, 9, 9, 9], [-9, -9, 9, 9])
    found = dataclasses.replace(
        predictions([CAT, SKY, DOG], logits, [0.3, 0.9, 0.6]),
        boxes=torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0], [0.75, 0.5, 0.6, 0.5]]),
    )
    instances = instance_result(found, (8, 12), (16, 24), 0.5)
    assert instances.pred_classes.tolist() == [DOG, CAT]
    assert instances.scores.tolist() == pytest.approx([0.6, 0.3])
    expected = torch.tensor([[10.8, 4.0, 24.0, 12.0], [0.0, 0.0, 12.0, 16.0]])
    assert torch.allclose(instances.pred_boxes.tensor, expected)
    assert instances.pred_masks.shape == (2, 16, 24)
    assert instances.pred_masks.flatten(1).sum(1).tolist() == [16 * 12, 16 * 6]


def test_instances_without_masks_have_boxes():
    found = dataclasses.replace(predictions([CAT, SKY], torch.zeros(2, 1, 1)), logits=None)
    instances = instance_result(found, (8, 12), (8, 12), 0.5)
    assert len(instances) == 1
    assert not instances.has("pred_masks")
