"""Results of one picture: the authors' panoptic rules by brute force, and what is made of the same masks besides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from maskformer.classes import JointClasses
from maskformer.inference import (
    InferenceOptions,
    instance_result,
    kept_queries,
    mask_wise_result,
    pixel_wise_result,
    resize_masks,
    semantic_result,
)
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.merging import MergeOptions
from panoptic_segformer.inference.outputs import Outputs

BLACK = (0, 0, 0)
# Ids 1 and 3 are things, 0 and 2 stuff.
CLASSES = JointClasses(Categories((1, 3), (0, 2), ("a", "b"), ("c", "d"), (BLACK, BLACK), (BLACK, BLACK)))
NO_OBJECT = 4


def options(object_mask_threshold=0.5, overlap_threshold=0.8) -> InferenceOptions:
    return InferenceOptions(object_mask_threshold, overlap_threshold, None, Outputs(True, True, True))


def probs_of(*labels_and_scores: tuple[int, float]) -> torch.Tensor:
    """Class probabilities (Q, 5); what is left goes to "no object" or, where that is the label, to class 0."""
    probs = torch.zeros(len(labels_and_scores), NO_OBJECT + 1)
    for row, (label, score) in zip(probs, labels_and_scores, strict=True):
        row[0 if label == NO_OBJECT else NO_OBJECT] = 1 - score
        row[label] = score
    return probs


def brute_force(class_probs, masks, own: InferenceOptions):
    """Pixel by pixel and query by query, as baselines' rules have it."""
    kept = [
        (query, row.argmax().item(), row.max().item())
        for query, row in enumerate(class_probs)
        if row.argmax() != NO_OBJECT and row.max() > own.object_mask_threshold
    ]
    height, width = masks.shape[-2:]
    ids = torch.zeros(height, width, dtype=torch.int32)
    owners = {}
    for y in range(height):
        for x in range(width):
            if kept:
                owners[y, x] = max(kept, key=lambda entry: (entry[2] * masks[entry[0], y, x].item(), -entry[0]))[0]
    segments, stuff = [], {}
    for query, label, score in kept:
        pixels = [place for place, owner in owners.items() if owner == query]
        inside = [value for value in masks[query].flatten().tolist() if value >= 0.5]
        if not pixels or not inside or len(pixels) / len(inside) < own.overlap_threshold:
            continue
        is_thing = label in (1, 3)
        if not is_thing and label in stuff:
            segment = stuff[label]
        else:
            segment = {"id": len(segments) + 1, "category_id": label, "isthing": is_thing, "area": 0}
            segment["score"] = score * sum(inside) / len(inside)
            segments.append(segment)
            if not is_thing:
                stuff[label] = segment
        segment["area"] += len(pixels)
        for y, x in pixels:
            ids[y, x] = segment["id"]
    return ids, segments


@given(
    seed=st.integers(0, 10_000),
    number=st.integers(0, 8),
    threshold=st.sampled_from([0.0, 0.4, 0.6]),
    overlap=st.sampled_from([0.0, 0.5, 0.8]),
)
def test_pixel_wise_result_equals_brute_force(seed, number, threshold, overlap):
    generator = torch.Generator().manual_seed(seed)
    class_probs = (3 * torch.randn(number, NO_OBJECT + 1, generator=generator)).softmax(-1)
    coarse = 3 * torch.randn(number, 1, 2, 3, generator=generator)
    masks = F.interpolate(coarse, (5, 6), mode="nearest")[:, 0].sigmoid()
    own = options(threshold, overlap)
    ids, segments = pixel_wise_result(class_probs, masks, CLASSES, own)
    expected_ids, expected = brute_force(class_probs, masks, own)
    assert ids.dtype == torch.int32
    assert torch.equal(ids, expected_ids)
    scores = [segment.pop("score") for segment in segments]
    assert scores == pytest.approx([segment.pop("score") for segment in expected], rel=1e-5)
    assert segments == expected
    # Dropping the others before their masks are resized changes nothing.
    kept = kept_queries(class_probs, own)
    assert torch.equal(pixel_wise_result(class_probs[kept], masks[kept], CLASSES, own)[0], ids)


def test_queries_of_one_stuff_class_are_one_segment_and_those_of_a_thing_class_are_not():
    masks = torch.zeros(4, 2, 8)
    for query in range(4):
        masks[query, :, 2 * query : 2 * query + 2] = 0.9
    class_probs = probs_of((2, 0.8), (1, 0.9), (2, 0.95), (1, 0.7))
    ids, segments = pixel_wise_result(class_probs, masks, CLASSES, options())
    assert ids[0].tolist() == [1, 1, 2, 2, 1, 1, 3, 3]
    assert [(s["category_id"], s["isthing"], s["area"]) for s in segments] == [
        (2, False, 8),
        (1, True, 4),
        (1, True, 4),
    ]
    assert [s["score"] for s in segments] == pytest.approx([0.72, 0.81, 0.63])


def test_a_hidden_segment_leaves_its_pixels_void():
    masks = torch.full((2, 1, 10), 0.05)
    masks[0] = 0.9
    masks[1, :, :4] = 0.8
    # The second query gets less than 80 percent of its own pixels, the pixels of the first are the other six.
    ids, segments = pixel_wise_result(probs_of((1, 0.7), (3, 0.99)), masks, CLASSES, options())
    assert ids[0].tolist() == [1] * 4 + [0] * 6
    assert [s["category_id"] for s in segments] == [3]


def test_nothing_certain_gives_an_empty_map():
    ids, segments = pixel_wise_result(probs_of((1, 0.6), (NO_OBJECT, 0.9)), torch.ones(2, 3, 4), CLASSES, options(0.8))
    assert ids.shape == (3, 4)
    assert not ids.any()
    assert segments == []


def test_semantic_result_sums_over_queries():
    class_probs = torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.4], [0.5, 0.0, 0.0, 0.2, 0.3]])
    masks = torch.tensor([[[0.2, 1.0]], [[0.5, 0.0]]])
    expected = torch.einsum("qc,qhw->chw", class_probs[:, :4], masks)
    assert torch.allclose(semantic_result(class_probs, masks, CLASSES), expected)


def test_semantic_result_of_the_separated_form_puts_things_together():
    separated = JointClasses(Categories((0, 1), (1, 2), ("a", "b"), ("c", "d"), (BLACK, BLACK), (BLACK, BLACK)))
    class_probs = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])
    result = semantic_result(class_probs, torch.ones(1, 1, 1), separated)
    assert result.flatten().tolist() == pytest.approx([0.3, 0.3, 0.15])


def test_instances_are_thing_queries_by_score():
    masks = torch.zeros(4, 4, 6)
    masks[0, :2, :3] = 0.6
    masks[1, 1:, 2:5] = 0.9
    masks[3, 0, 0] = 0.4  # nowhere inside
    # The third is stuff; the first is a thing although "no object" is more probable.
    instances = instance_result(probs_of((3, 0.4), (1, 0.5), (2, 0.9), (1, 0.9)), masks, CLASSES)
    assert instances.pred_classes.tolist() == [1, 3]
    assert instances.scores.tolist() == pytest.approx([0.45, 0.24])
    assert instances.pred_boxes.tensor.tolist() == [[2, 1, 5, 4], [0, 0, 3, 2]]
    assert instances.pred_masks.sum((1, 2)).tolist() == [9, 6]


def test_mask_wise_merging_paints_the_best_first():
    masks = torch.zeros(3, 4, 6)
    masks[0, :, :4] = 0.9
    masks[1, :, 3:] = 0.8
    masks[2, 0, 0] = 0.7  # taken by the first
    merging = MergeOptions(0.5, 0.1, 0.4, 0.4, 1.0, 1.0)
    ids, segments = mask_wise_result(probs_of((2, 0.9), (1, 0.8), (1, 0.7)), masks, CLASSES, merging)
    assert ids[0].tolist() == [1, 1, 1, 1, 2, 2]
    assert [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in segments] == [
        (1, 2, False, 16),
        (2, 1, True, 8),
    ]


def test_masks_are_resized_twice_and_cropped_between():
    logits = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(logits[None], (16, 24), mode="bilinear", align_corners=False)[..., :13, :22]
    expected = F.interpolate(large, (30, 40), mode="bilinear", align_corners=False)[0].sigmoid()
    assert torch.allclose(resize_masks(logits, (16, 24), (13, 22), (30, 40)), expected)
    assert torch.allclose(resize_masks(logits, (16, 24), (13, 22), (13, 22)), large[0].sigmoid())
    assert resize_masks(logits[:0], (16, 24), (13, 22), (30, 40)).shape == (0, 30, 40)
