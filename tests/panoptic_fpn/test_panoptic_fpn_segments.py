"""Results: both ways to segments, ids of both forms of metadata, batches, sizes."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from panoptic_fpn.segments import CombineOptions, combined_segments, merged_segments
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.merging import MergeOptions
from rectangles import make_example

STANDARD = Categories.from_metadata(MetadataCatalog.get("coco_2017_val_panoptic"))
SEPARATED = Categories.from_metadata(MetadataCatalog.get("coco_2017_val_panoptic_separated"))
COMBINE = CombineOptions(overlap_threshold=0.5, stuff_area=20, score_threshold=0.5)
MERGE = MergeOptions(0.5, 0.25, 0.4, 0.2, 1.0, 2.0)
FIELDS = {"id", "category_id", "isthing", "score", "area"}


def semantic_logits(*areas: tuple[int, int, int]) -> torch.Tensor:
    """Logits (54, 20, 30): class k from column a to column b has 4, all others 0."""
    logits = torch.zeros(54, 20, 30)
    for channel, left, right in areas:
        logits[channel, :, left:right] = 4
    return logits


def things(*found: tuple[int, float, int, int]) -> Instances:
    """Things as the heads give them, (label, score, left, right): full boxes of all rows."""
    return Instances(
        (20, 30),
        pred_boxes=Boxes(torch.tensor([[left, 0, right, 20] for *_, left, right in found]).float().view(-1, 4)),
        pred_masks=torch.ones(len(found), 1, 28, 28),
        pred_classes=torch.tensor([label for label, *_ in found], dtype=torch.int64),
        scores=torch.tensor([score for _, score, *_ in found]),
    )


def pasted(found: Instances) -> Instances:
    masks = torch.zeros(len(found), 20, 30, dtype=torch.bool)
    for mask, (left, _, right, _) in zip(masks, found.pred_boxes.tensor.int().tolist(), strict=True):
        mask[:, left:right] = True
    found.pred_masks = masks
    return found


@pytest.mark.parametrize(("categories", "stuff_id"), [(STANDARD, 80), (SEPARATED, 1)])
def test_combination_of_things_and_stuff(categories, stuff_id):
    # The second thing is all but covered by the first, the third not sure enough.
    found = pasted(things((7, 0.9, 2, 12), (7, 0.8, 4, 14), (3, 0.4, 16, 20)))
    ids, segments = combined_segments(found, semantic_logits((0, 0, 12), (1, 12, 29), (2, 29, 30)), categories, COMBINE)
    expected = torch.zeros(20, 30, dtype=torch.int32)
    expected[:, 2:12], expected[:, 12:29], expected[:, 29:] = 1, 2, 3
    assert torch.equal(ids, expected)
    probability = torch.tensor(4.0).exp() / (torch.tensor(4.0).exp() + 53)
    assert segments == [
        {"id": 1, "category_id": 7, "isthing": True, "score": pytest.approx(0.9), "area": 200},
        {"id": 2, "category_id": stuff_id, "isthing": False, "score": pytest.approx(probability.item()), "area": 340},
        {
            "id": 3,
            "category_id": stuff_id + 1,
            "isthing": False,
            "score": pytest.approx(probability.item()),
            "area": 20,
        },
    ]


def test_combination_lists_nothing_that_is_hidden_entirely():
    found = pasted(things((7, 0.9, 2, 12), (5, 0.8, 4, 10), (3, 0.7, 8, 14)))
    options = CombineOptions(overlap_threshold=1.0, stuff_area=600, score_threshold=0.5)
    ids, segments = combined_segments(found, semantic_logits((0, 0, 30)), STANDARD, options)
    assert [(segment["category_id"], segment["area"]) for segment in segments] == [(7, 200), (3, 40)]
    assert {segment["id"] for segment in segments} == set(ids.unique().tolist()) - {0}


def test_combination_of_nothing_is_void():
    ids, segments = combined_segments(pasted(things()), semantic_logits((0, 0, 30)), SEPARATED, COMBINE)
    assert not ids.any()
    assert segments == []


@pytest.mark.parametrize(("categories", "stuff_id"), [(STANDARD, 80), (SEPARATED, 1)])
def test_merging_by_masks(categories, stuff_id):
    logits = 3 * semantic_logits((0, 0, 12), (1, 12, 30))  # sure of itself
    found = things((7, 0.9, 2, 12), (7, 0.8, 3, 12), (3, 0.2, 16, 20))
    ids, segments = merged_segments(found, logits, categories, MERGE)
    # Stuff first, of which the semantic head is surer; the doubled thing has no place of its own left, the last is
    # below the threshold.
    expected = torch.zeros(20, 30, dtype=torch.int32)
    expected[:, 2:12], expected[:, 12:] = 2, 1
    assert torch.equal(ids, expected)
    assert [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in segments] == [
        (1, stuff_id, False, 360),
        (2, 7, True, 200),
    ]
    assert segments[1]["score"] == pytest.approx(0.9 * (200 / 201) ** 2, rel=1e-3)


def test_merging_scales_boxes_to_the_result():
    found = things((7, 0.9, 6, 12))
    ids, _ = merged_segments(found, torch.zeros(54, 40, 90), SEPARATED, MERGE)
    assert ids[:, 18:36].all()
    assert ids.count_nonzero() == 40 * 18


def test_merging_of_nothing_is_void():
    ids, segments = merged_segments(things(), torch.zeros(54, 20, 30), SEPARATED, MERGE)
    assert ids.dtype == torch.int32
    assert not ids.any()
    assert segments == []


@pytest.fixture(params=["combined", "merged"])
def model(request, small_model):
    """The small model, whose random weights find much, with either way to segments."""
    small_model.merging = None if request.param == "combined" else MergeOptions(0.3, 0.01, 0.4, 0.2, 1.0, 1.0)
    yield small_model.eval()
    small_model.merging = None


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 128), (70, 150), (9, 7), (1, 1), (1, 40)])
def test_results_are_complete_at_any_size(model, size):
    picture = {"image": make_example((96, 128))["image"], "height": size[0], "width": size[1]}
    (result,) = model([picture])
    check_result(result, size, model.categories)


@torch.no_grad()
@pytest.mark.parametrize("size", [(9, 7), (1, 1), (1, 200), (33, 65)])
def test_pictures_of_any_size_have_results(model, size):
    (result,) = model([{"image": make_example(size)["image"]}])
    check_result(result, size, model.categories)


def check_result(result, size, categories):
    ids, segments = result["panoptic_seg"]
    assert tuple(ids.shape) == size
    assert ids.dtype == torch.int32
    assert sorted({0, *ids.unique().tolist()}) == list(range(len(segments) + 1))
    for segment in segments:
        assert segment.keys() == FIELDS
        assert segment["area"] == int((ids == segment["id"]).sum()) > 0
        assert 0 <= segment["score"] <= 1
        assert segment["category_id"] in (categories.thing_ids if segment["isthing"] else categories.stuff_ids)
    assert segments
    assert tuple(result["sem_seg"].shape) == (1 + categories.num_stuff, *size)
    assert result["instances"].image_size == size
    assert result["instances"].pred_masks.shape[1:] == size


@torch.no_grad()
@pytest.mark.parametrize("size", [None, (70, 150)])
def test_batch_of_two_is_two_single_pictures(model, size):
    pictures = [{"image": make_example((96, 128), seed=seed)["image"]} for seed in range(2)]
    if size:
        pictures = [{**picture, "height": size[0], "width": size[1]} for picture in pictures]
    for together, picture in zip(model(pictures), pictures, strict=True):
        (alone,) = model([picture])
        # Sums run in another order, so that a pixel on a border may turn.
        differing = together["panoptic_seg"][0] != alone["panoptic_seg"][0]
        assert differing.float().mean() < 1e-3
        assert torch.allclose(together["instances"].scores, alone["instances"].scores, atol=1e-4)
        for one, other in zip(together["panoptic_seg"][1], alone["panoptic_seg"][1], strict=True):
            assert (one["id"], one["category_id"], one["isthing"]) == (
                other["id"],
                other["category_id"],
                other["isthing"],
            )
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_config_switches_the_way_to_segments(small_config, small_model):
    assert small_model.merging is None
    switched = build_model(small_config("MODEL.MASK_WISE_MERGING.ENABLED", "True"))
    assert switched.merging == MergeOptions(0.5, 0.25, 0.4, 0.2, 1.0, 2.0)


def test_half_precision_is_left_before_anything_is_resized_or_pasted(model):
    """As the heads give it under autocast; the result is that of the same numbers in full precision."""
    torch.manual_seed(0)
    full = things((2, 0.875, 1, 29), (4, 0.75, 3, 12))
    full.pred_masks = torch.rand(2, 1, 28, 28).half().float()
    half = things((2, 0.875, 1, 29), (4, 0.75, 3, 12))
    half.pred_masks, half.scores = full.pred_masks.half(), half.scores.half()
    logits = torch.randn(7, 20, 30).half()
    actual = model.picture_results(half, logits, (400, 600))
    expected = model.picture_results(full, logits.float(), (400, 600))
    assert torch.equal(actual["sem_seg"], expected["sem_seg"])
    assert torch.equal(actual["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert actual["panoptic_seg"][1] == expected["panoptic_seg"][1]
    assert torch.equal(actual["instances"].pred_masks, expected["instances"].pred_masks)
    assert actual["instances"].pred_masks.any()
    assert actual["instances"].scores.dtype == torch.float32
    assert full.pred_boxes.tensor.tolist() == [[1, 0, 29, 20], [3, 0, 12, 20]]  # left as they were
