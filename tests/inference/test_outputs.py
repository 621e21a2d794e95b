"""Results of a picture, from hand-made candidates."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.inference.merging import MergeOptions
from panoptic_segformer.inference.outputs import Outputs, picture_results, semantic_result

OPTIONS = MergeOptions(0.5, 0.25, 0.4, 0.2, 1.0, 2.0)
SIZE = (8, 8)
CATEGORIES = Categories(
    thing_ids=(0, 3),
    stuff_ids=(1,),
    thing_names=("cat", "dog"),
    stuff_names=("grass",),
    thing_colors=((1, 2, 3), (4, 5, 6)),
    stuff_colors=((7, 8, 9),),
)


@pytest.fixture
def candidates() -> Candidates:
    """A cat on the left, the same mask as a dog, an empty thing, and grass everywhere on the right."""
    masks = torch.zeros(4, 8, 8)
    masks[:2, :, :4] = 1.0
    masks[3, :, 4:] = 0.9
    return Candidates(
        masks=masks,
        class_probs=torch.tensor([0.9, 0.4, 0.8, 0.7]),
        category_ids=torch.tensor([0, 3, 3, 1]),
        is_thing=torch.tensor([True, True, True, False]),
        boxes=torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.25, 0.5, 0.5, 1.0], [0.9, 0.9, 0.4, 0.4]]),
    )


def test_panoptic_result_keeps_the_better_of_two_classes(candidates):
    segment_ids, segments_info = picture_results(candidates, SIZE, CATEGORIES, OPTIONS, Outputs(True, False, False))[
        "panoptic_seg"
    ]
    assert [s["category_id"] for s in segments_info] == [0, 1]
    assert [s["isthing"] for s in segments_info] == [True, False]
    assert [s["area"] for s in segments_info] == [32, 32]
    assert segments_info[0]["score"] == pytest.approx(0.9 * (32 / 33) ** 2)
    assert segment_ids[:, :4].eq(1).all()
    assert segment_ids[:, 4:].eq(2).all()


def test_instances_hold_all_things_with_boxes_in_pixels(candidates):
    instances = picture_results(candidates, SIZE, CATEGORIES, OPTIONS, Outputs(False, True, False))["instances"]
    assert instances.pred_classes.tolist() == [0, 3, 3]
    assert instances.pred_boxes.tensor[0].tolist() == [0, 0, 4, 8]
    assert instances.pred_boxes.tensor[2].max() == 8  # clipped to the picture
    assert instances.pred_masks.sum((1, 2)).tolist() == [32, 32, 0]
    assert instances.scores[2] == 0


def test_semantic_result_takes_the_best_candidate_of_each_class(candidates):
    scores = semantic_result(candidates, SIZE, CATEGORIES)
    assert scores.shape == (4, *SIZE)
    assert scores[0, 0, 0] == pytest.approx(0.9)
    assert scores[3, 0, 0] == pytest.approx(0.4)
    assert scores[1, 0, 7] == pytest.approx(0.7 * 0.9)
    assert scores[2].count_nonzero() == 0


def test_semantic_result_of_the_separated_form_has_things_in_channel_0(candidates):
    separated = dataclasses.replace(CATEGORIES, thing_ids=(0, 1), stuff_ids=(1,))
    ids = torch.tensor([0, 1, 1, 1])
    scores = semantic_result(dataclasses.replace(candidates, category_ids=ids), SIZE, separated)
    assert scores.shape == (2, *SIZE)
    assert scores[0, 0, 0] == pytest.approx(0.9)
    assert scores[1, 0, 0] == 0
    assert scores[1, 0, 7] == pytest.approx(0.7 * 0.9)


def test_no_survivor_gives_void(candidates):
    weak = dataclasses.replace(candidates, masks=candidates.masks * 0.4)
    segment_ids, segments_info = picture_results(weak, SIZE, CATEGORIES, OPTIONS, Outputs(True, True, False))[
        "panoptic_seg"
    ]
    assert segments_info == []
    assert not segment_ids.any()


def test_candidates_of_one_stuff_class_become_one_segment(candidates):
    twice = Candidates(
        masks=torch.cat([candidates.masks[[0, 3]], torch.ones(1, 8, 8)]),
        class_probs=torch.tensor([0.9, 0.7, 0.3]),
        category_ids=torch.tensor([0, 1, 1]),
        is_thing=torch.tensor([True, False, False]),
        boxes=candidates.boxes[:1],
    )
    twice.masks[1, :4] = 0
    by_class = MergeOptions(0.5, 0.25, 1.0, 1.0, 1.0, 0.0)
    segment_ids, segments_info = picture_results(twice, SIZE, CATEGORIES, by_class, Outputs(True, False, False))[
        "panoptic_seg"
    ]
    assert segments_info == [
        {"id": 1, "category_id": 0, "isthing": True, "score": pytest.approx(0.9), "area": 32},
        {"id": 2, "category_id": 1, "isthing": False, "score": pytest.approx(0.7), "area": 32},
    ]
    assert segment_ids[:, :4].eq(1).all()
    assert segment_ids[:, 4:].eq(2).all()


def test_empty_mask_scores_nothing_whatever_the_exponent(candidates):
    by_class = dataclasses.replace(OPTIONS, mask_exponent=0.0)
    instances = picture_results(candidates, SIZE, CATEGORIES, by_class, Outputs(False, True, False))["instances"]
    assert instances.scores.tolist() == pytest.approx([0.9, 0.4, 0.0])


def test_instances_without_boxes_get_those_of_their_masks(candidates):
    centers = dataclasses.replace(candidates, boxes=candidates.boxes[:, :2])
    instances = picture_results(centers, SIZE, CATEGORIES, OPTIONS, Outputs(False, True, False))["instances"]
    assert instances.pred_boxes.tensor.tolist() == [[0, 0, 4, 8], [0, 0, 4, 8], [0, 0, 0, 0]]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:To copy construct:UserWarning")
@pytest.mark.parametrize("panoptic", [True, False])
def test_results_are_traced(candidates, panoptic):
    def scores(class_probs):
        given = dataclasses.replace(candidates, class_probs=class_probs)
        results = picture_results(given, SIZE, CATEGORIES, OPTIONS, Outputs(panoptic, True, False))
        return results["instances"].scores

    traced = torch.jit.trace(scores, candidates.class_probs)
    assert torch.equal(traced(candidates.class_probs), scores(candidates.class_probs))


def test_joined_parts_keep_their_masks(candidates):
    things, stuff = (candidates.select(candidates.is_thing == kind) for kind in (True, False))
    joined = Candidates.joined([things, stuff])
    assert torch.equal(joined.masks, candidates.masks)
    assert torch.equal(joined.category_ids, candidates.category_ids)
    assert torch.equal(joined.boxes, candidates.boxes)
