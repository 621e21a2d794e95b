"""Results of one picture: scores of things, painting in their order, stuff where it is free, mask-wise merging."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from detectron2.structures import Instances
from torch.nn import functional as F

from panoptic_fcn.inference import (
    CombineOptions,
    InferenceOptions,
    Masks,
    Sizes,
    combine,
    find_instances,
    merge,
    semantic_result,
    to_result_size,
)
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.merging import MergeOptions

OPTIONS = InferenceOptions(mask_threshold=0.4, num_things=100, combine=None, merging=None)
COMBINE = CombineOptions(score_threshold=0.2, overlap_threshold=0.5, stuff_area_limit=6)
MERGING = MergeOptions(0.5, 0.1, 0.4, 0.2, 1.0, 2.0)
SIZES = Sizes(padded=(32, 64), image=(30, 50), result=(45, 70))
THING_IDS = torch.tensor([3, 5])
STUFF_IDS = (7, 9)
COLORS = ((0, 0, 0),) * 2
CATEGORIES = Categories((3, 5), STUFF_IDS, ("a", "b"), ("c", "d"), COLORS, COLORS)


def random_masks(number: int, seed: int = 0, num_classes: int = 2) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(number, 1, 3, 4, generator=generator) * 3
    probs = F.interpolate(coarse, (8, 16), mode="bilinear", align_corners=False)[:, 0].sigmoid()
    classes = torch.randint(num_classes, (number,), generator=generator)
    return Masks(probs, classes, torch.rand(number, generator=generator).sort(descending=True).values)


def stuff_masks(seed: int = 1) -> Masks:
    """All three classes, "any thing" first."""
    return dataclasses.replace(random_masks(3, seed), classes=torch.arange(3))


def resized(probs: torch.Tensor) -> torch.Tensor:
    full = F.interpolate(probs[None], SIZES.padded, mode="bilinear", align_corners=False)
    own = full[..., : SIZES.image[0], : SIZES.image[1]]
    return F.interpolate(own, SIZES.result, mode="bilinear", align_corners=False)[0]


def instances_of(masks: torch.Tensor, scores: list[float], classes: list[int]) -> Instances:
    return Instances(
        tuple(masks.shape[1:]), pred_masks=masks, scores=torch.tensor(scores), pred_classes=torch.tensor(classes)
    )


def test_masks_are_upsampled_cut_and_resized():
    probs = random_masks(3).probs
    torch.testing.assert_close(to_result_size(probs, SIZES), resized(probs))
    assert to_result_size(probs[:0], SIZES).shape == (0, 45, 70)


def test_things_are_scored_by_their_masks_and_sorted():
    things = random_masks(8)
    found = find_instances(things, SIZES, THING_IDS, OPTIONS)
    expected = []
    for probs, label, score in zip(things.probs, things.classes.tolist(), things.scores.tolist(), strict=True):
        inside = probs > 0.4
        new_score = score * probs[inside].sum().item() / (inside.sum().item() + 1e-6)
        if new_score >= 0.05:
            expected.append((new_score, label, resized(probs[None])[0] > 0.4))
    expected.sort(key=lambda thing: -thing[0])
    assert len(expected) > 4
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected])
    assert found.pred_classes.tolist() == [(3, 5)[label] for _, label, _ in expected]
    for mask, box, (_, _, truth) in zip(found.pred_masks, found.pred_boxes.tensor, expected, strict=True):
        assert torch.equal(mask, truth)
        rows, columns = truth.nonzero(as_tuple=True)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_pixels_that_are_no_numbers_cost_their_thing_only_themselves():
    """Half precision may overflow somewhere in the features, and that pixel is of every mask."""
    things = random_masks(4)
    things.probs[:, 0, 0] = 0.0
    expected = find_instances(things, SIZES, THING_IDS, OPTIONS)
    things.probs[:, 0, 0] = torch.nan
    found = find_instances(things, SIZES, THING_IDS, OPTIONS)
    assert len(expected) > 2
    assert found.scores.tolist() == expected.scores.tolist()
    assert found.pred_classes.tolist() == expected.pred_classes.tolist()


def test_no_more_than_the_greatest_number_of_things_are_kept():
    options = dataclasses.replace(OPTIONS, num_things=3)
    everything = find_instances(random_masks(8), SIZES, THING_IDS, OPTIONS)
    best = find_instances(random_masks(8), SIZES, THING_IDS, options)
    assert best.scores.tolist() == everything.scores[:3].tolist()


def test_many_things_are_upsampled_a_few_at_a_time(monkeypatch):
    expected = find_instances(random_masks(8), SIZES, THING_IDS, OPTIONS)
    monkeypatch.setattr("panoptic_fcn.inference.VALUES_PER_CHUNK", 32 * 64 * 3)
    assert torch.equal(find_instances(random_masks(8), SIZES, THING_IDS, OPTIONS).pred_masks, expected.pred_masks)


def test_semantic_result_has_a_channel_per_class():
    stuff = random_masks(2)
    stuff = dataclasses.replace(stuff, classes=torch.tensor([0, 2]))
    probs = to_result_size(stuff.probs, SIZES)
    found = semantic_result(stuff, probs, 4)
    assert torch.equal(found[[0, 2]], probs)
    assert found[[1, 3]].count_nonzero() == 0


def expected_panoptic(instances, stuff, probs):
    """Return the id map and (category, isthing, area) rows by the rules, pixel set by pixel set."""
    ids, rows = torch.zeros(probs.shape[1:], dtype=torch.int32), []
    for mask, score, label in zip(instances.pred_masks, instances.scores, instances.pred_classes, strict=True):
        area, taken = mask.sum().item(), (mask & (ids > 0)).sum().item()
        if score < COMBINE.score_threshold or not area or taken / area > COMBINE.overlap_threshold:
            continue
        free = mask & (ids == 0)
        rows.append((label.item(), True, free.sum().item()))
        ids[free] = len(rows)
    semantic = semantic_result(stuff, probs, 3).argmax(0)
    for label in (1, 2):
        free = (semantic == label) & (ids == 0)
        if free.sum() >= COMBINE.stuff_area_limit:
            rows.append((STUFF_IDS[label - 1], False, free.sum().item()))
            ids[free] = len(rows)
    return ids, rows


@pytest.mark.parametrize("seed", range(6))
def test_combining_paints_things_in_order_and_then_stuff(seed):
    instances = find_instances(random_masks(8, seed), SIZES, THING_IDS, OPTIONS)
    stuff = stuff_masks(seed + 100)
    probs = to_result_size(stuff.probs, SIZES)
    ids, segments = combine(instances, stuff, probs, STUFF_IDS, COMBINE)
    expected_ids, rows = expected_panoptic(instances, stuff, probs)
    assert torch.equal(ids, expected_ids)
    assert ids.dtype == torch.int32
    assert [(s["category_id"], s["isthing"], s["area"]) for s in segments] == rows
    assert [s["id"] for s in segments] == list(range(1, len(rows) + 1))
    for segment in segments:
        if segment["isthing"]:
            assert segment["score"] == instances.scores[segment["instance_id"]].item()
        else:
            assert segment["score"] == stuff.scores[STUFF_IDS.index(segment["category_id"]) + 1].item()


def test_thing_is_dropped_when_more_than_half_of_it_is_taken():
    masks = torch.zeros(3, 4, 8, dtype=torch.bool)
    masks[0, :, :4] = True
    masks[1, :, 2:6] = True  # half of it is taken
    masks[2, :, 3:8] = True  # three columns of five
    instances = instances_of(masks, [0.9, 0.8, 0.7], [3, 3, 5])
    nothing = Masks(torch.zeros(0, 1, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    ids, segments = combine(instances, nothing, torch.zeros(0, 4, 8), STUFF_IDS, COMBINE)
    assert [segment["instance_id"] for segment in segments] == [0, 1]
    assert ids[0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0]


def test_small_stuff_and_the_class_of_all_things_stay_void():
    nothing = instances_of(torch.zeros(0, 4, 8, dtype=torch.bool), [], [])
    probs = torch.full((3, 4, 8), 0.1)
    probs[0, :, :4], probs[1, :, 4:], probs[2, 0, 4:6] = 0.9, 0.8, 0.9
    ids, segments = combine(nothing, dataclasses.replace(stuff_masks(), probs=probs), probs, STUFF_IDS, COMBINE)
    assert [segment["category_id"] for segment in segments] == [7]
    assert segments[0]["area"] == 14
    assert (ids > 0).sum() == 14


@pytest.mark.parametrize("number", [0, 8])
def test_mask_wise_merging_gives_a_valid_result(number):
    ids, segments = merge(random_masks(number), stuff_masks(), SIZES, CATEGORIES, MERGING)
    assert ids.shape == SIZES.result
    assert segments
    assert ids.unique().tolist() == [*([0] if (ids == 0).any() else []), *(s["id"] for s in segments)]
    for segment in segments:
        assert segment["area"] == (ids == segment["id"]).sum()
        assert segment["category_id"] in (CATEGORIES.thing_ids if segment["isthing"] else CATEGORIES.stuff_ids)
        assert segment["score"] >= MERGING.score_threshold


def test_mask_wise_merging_of_nothing_is_void():
    ids, segments = merge(random_masks(0), random_masks(0), SIZES, CATEGORIES, MERGING)
    assert not ids.any()
    assert segments == []
