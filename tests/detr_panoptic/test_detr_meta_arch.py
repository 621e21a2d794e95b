"""The whole model on small pictures: batches, sizes, masks of some queries, training, and what is missing."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage, get_event_storage

from panoptic_segformer.modeling.levels import FeatureLevels

INSTANCES_OFF = ("MODEL.DETR.TEST.INSTANCE_ON", "False")
# Random weights are sure of nothing: all queries whose best class beats "no object".
ANY_SCORE = ("MODEL.DETR.TEST.SCORE_THRESHOLD", "0.0")
LOSSES = {"loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice", "loss_ce_0", "loss_bbox_0", "loss_giou_0"}


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def run(model, *inputs: dict) -> list[dict]:
    with torch.no_grad():
        return model(list(inputs))


def assert_valid(result: dict, size: tuple[int, int]) -> None:
    ids, records = result["panoptic_seg"]
    assert ids.shape == size
    assert ids.dtype == torch.int32
    assert [record["id"] for record in records] == list(range(1, len(records) + 1))
    assert [record["area"] for record in records] == [int((ids == record["id"]).sum()) for record in records]
    assert all(0 <= record["score"] <= 1 for record in records)


def without_segments(example: dict, *kinds: str) -> dict:
    return {key: value[:0] if key in kinds else value for key, value in example.items()}


@torch.no_grad()
def make_queries_differ(model) -> None:
    """Take away what random queries have in common and enlarge the rest, so that they have classes and masks."""
    common = model.network(model.preprocess([{"image": noise(70, 90)}])).queries[0].mean(0)
    for linear in (model.class_embed, model.bbox_attention.q_linear):
        linear.weight *= 100
        linear.bias.copy_(-linear.weight @ common)
    model.mask_head.lay1.weight[:, :-8] *= 0.01
    for number in (1, 2, 3):
        model.mask_head.get_submodule(f"adapter{number}").weight *= 0.05
    model.mask_head.out_lay.bias -= 0.7


@pytest.mark.parametrize("merging", ["False", "True"])
def test_batch_of_equal_sizes_equals_single_runs(build_detr, merging):
    node = "MODEL.MASK_WISE_MERGING"
    thresholds = (f"{node}.SCORE_THRESHOLD", "0.01", f"{node}.THING_OVERLAP_THRESHOLD", "1.0")
    model = build_detr(*ANY_SCORE, f"{node}.ENABLED", merging, *thresholds).double()
    make_queries_differ(model)
    inputs = [{"image": noise(70, 90, seed=1)}, {"image": noise(70, 90, seed=2), "height": 101, "width": 67}]
    singles = [run(model, one)[0] for one in inputs]
    for single, batched, size in zip(singles, run(model, *inputs), [(70, 90), (101, 67)], strict=True):
        assert_valid(batched, size)
        assert len(single["panoptic_seg"][1]) > 1
        assert torch.equal(single["panoptic_seg"][0], batched["panoptic_seg"][0])
        for one, other in zip(single["panoptic_seg"][1], batched["panoptic_seg"][1], strict=True):
            assert one == {**other, "score": pytest.approx(other["score"], abs=1e-5)}
        one, other = single["instances"], batched["instances"]
        assert torch.allclose(one.scores, other.scores, atol=1e-5)
        assert torch.allclose(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-3)
        assert torch.equal(one.pred_masks, other.pred_masks)


def test_transformer_does_not_see_padding(build_detr):
    """What holds of a batch of unequal sizes: the backbone and the mask head's convolutions do see padding."""
    model = build_detr()
    torch.manual_seed(0)
    own = torch.randn(1, 128, 3, 4)
    padded = torch.full((1, 128, 5, 6), 100.0)
    padded[..., :3, :4] = own
    with torch.no_grad():
        memory, (queries,) = model.transformer(FeatureLevels([own], [[(3, 4)]]), model.query_embed.weight)
        level = FeatureLevels([padded], [[(3, 4)]])
        padded_memory, (padded_queries,) = model.transformer(level, model.query_embed.weight)
        maps = model.bbox_attention(queries[0], memory[0])
        padded_maps = model.bbox_attention(padded_queries[0], padded_memory[0], level.padding[0].view(5, 6))
    assert torch.allclose(padded_memory[..., :3, :4], memory, atol=1e-5)
    assert torch.allclose(padded_queries, queries, atol=1e-5)
    assert torch.allclose(padded_maps[..., :3, :4], maps, atol=1e-6)
    assert padded_maps.sum((1, 2, 3)).allclose(torch.ones(20))
    assert not padded_maps[..., 3:, :].any()
    assert not padded_maps[..., 4:].any()


def test_batch_of_unequal_sizes_gives_each_picture_its_own_area(build_detr):
    model = build_detr(*ANY_SCORE)
    make_queries_differ(model)
    small, large = {"image": noise(40, 100, seed=1)}, {"image": noise(96, 64, seed=2)}
    outputs = model.network(model.preprocess([small, large]))
    assert outputs.level.sizes == [[(2, 4)], [(3, 2)]]
    for result, size in zip(run(model, small, large), [(40, 100), (96, 64)], strict=True):
        assert_valid(result, size)
        assert (result["panoptic_seg"][0] > 0).all()


def test_masks_of_needed_queries_equal_those_of_all(build_detr, monkeypatch):
    model = build_detr("MODEL.DETR.TEST.SCORE_THRESHOLD", "0.3", *INSTANCES_OFF).double()
    make_queries_differ(model)
    picture = {"image": noise(70, 90)}
    outputs = model.network(model.preprocess([picture]))
    needed = model.classify(outputs, 0).is_segment(model.inference_options)
    assert 1 < needed.sum() < len(needed)
    with torch.no_grad():
        everything = model.mask_logits(outputs, 0, torch.arange(len(needed)))
        asked_for = []
        mask_logits = type(model).mask_logits

        def record(self, outputs, picture, queries):
            asked_for.extend(queries.tolist())
            return mask_logits(self, outputs, picture, queries)

        monkeypatch.setattr(type(model), "mask_logits", record)
        assert torch.allclose(model.mask_logits(outputs, 0, needed.nonzero()[:, 0]), everything[needed], atol=1e-5)
        asked_for.clear()
        found = run(model, picture)[0]["panoptic_seg"]
        assert asked_for == needed.nonzero()[:, 0].tolist()
        monkeypatch.setattr(type(model), "mask_logits", lambda self, outputs, picture, queries: everything[queries])
        expected = run(model, picture)[0]["panoptic_seg"]
    assert found[1] == expected[1]
    assert torch.equal(found[0], expected[0])


def test_training_on_matched_masks_equals_training_on_all(build_detr, scene_examples):
    model = build_detr().train()
    images = model.preprocess(scene_examples[:2])
    outputs = model.network(images)
    targets = [model.extract_targets(example) for example in scene_examples[:2]]
    matches = [
        model.criterion.match(*own) for own in zip(outputs.class_logits[-1], outputs.boxes[-1], targets, strict=True)
    ]
    everything = [model.mask_logits(outputs, picture, torch.arange(20)) for picture in range(2)]
    number = float(sum(len(match.queries) for match in matches))
    expected = model.criterion.mask_losses(
        [masks[match.queries] for masks, match in zip(everything, matches, strict=True)],
        [target.masks[match.targets] for target, match in zip(targets, matches, strict=True)],
        tuple(images.tensor.shape[-2:]),
        number,
    )
    found = model.compute_losses(outputs, images, scene_examples[:2])
    for name in ("loss_mask", "loss_dice"):
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_losses_are_finite_and_all_parts_learn(build_detr, scene_examples):
    model = build_detr().train()
    with EventStorage():
        losses = model(scene_examples)
        assert set(get_event_storage().latest()) == {"class_error", "cardinality_error"}
    assert set(losses) == LOSSES
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # Queries start from zero: the first self-attention has only its biases to pass on, and no spread to normalise.
    first = "transformer.decoder.layers.0."
    assert [name for name in without if not name.startswith((f"{first}self_attn", f"{first}norm1"))] == []


def test_half_precision_trains_and_predicts(build_detr, scene_examples):
    model = build_detr().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(scene_examples[:2])
        (result,) = run(model.eval(), {"image": noise(50, 60)})
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert_valid(result, (50, 60))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_model_of_half_precision_predicts(build_detr, dtype):
    model = build_detr(*ANY_SCORE)
    make_queries_differ(model)
    sizes = [(50, 60), (40, 70)]
    for result, size in zip(run(model.to(dtype), *({"image": noise(*size)} for size in sizes)), sizes, strict=True):
        assert_valid(result, size)
        assert result["instances"].scores.dtype == torch.float32


def test_supervision_of_the_last_layer_alone(build_detr, scene_examples):
    losses = build_detr("MODEL.DETR.DEEP_SUPERVISION", "False").train()(scene_examples[:1])
    assert set(losses) == {name for name in LOSSES if not name.endswith("_0")}


@pytest.mark.parametrize("kinds", [("instances",), ("stuff",), ("instances", "stuff")])
def test_training_without_segments_of_a_kind(build_detr, scene_examples, kinds):
    model = build_detr().train()
    losses = model([without_segments(example, *kinds) for example in scene_examples[:2]])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    # Distributed training waits for the gradient of every parameter.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    if len(kinds) == 2:
        assert losses["loss_mask"] == losses["loss_bbox"] == 0


def test_more_segments_than_queries(build_detr, scene_examples):
    """Of 150 instances the queries take as many as they are."""
    masks = torch.zeros(150, 96, 128, dtype=torch.bool)
    for number, mask in enumerate(masks):
        top, left = 6 * (number // 21), 6 * (number % 21)
        mask[top : top + 6, left : left + 6] = True
    bit_masks = BitMasks(masks)
    classes = torch.arange(150) % 3
    instances = Instances((96, 128), gt_classes=classes, gt_masks=bit_masks, gt_boxes=bit_masks.get_bounding_boxes())
    assert isinstance(instances.gt_boxes, Boxes)
    example = {**scene_examples[0], "image": noise(96, 128), "instances": instances}
    model = build_detr().train()
    losses = model([without_segments(example, "stuff")])
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (33, 31)])
def test_small_pictures(build_detr, size):
    model = build_detr(*ANY_SCORE)
    make_queries_differ(model)
    (result,) = run(model, {"image": noise(*size)})
    assert_valid(result, size)
    (result,) = run(model, {"image": noise(*size), "height": 50, "width": 60})
    assert_valid(result, (50, 60))
    assert (result["panoptic_seg"][0] > 0).all()


def test_picture_where_nothing_is_sure_is_void(build_detr):
    (result,) = run(build_detr("MODEL.DETR.TEST.SCORE_THRESHOLD", "1.0", *INSTANCES_OFF), {"image": noise(50, 60)})
    assert set(result) == {"panoptic_seg"}
    assert result["panoptic_seg"][1] == []
    assert not result["panoptic_seg"][0].any()


def test_box_model_gives_boxes_and_no_mask_losses(build_detr, scene_examples):
    model = build_detr("MODEL.MASK_ON", "False")
    assert not any("mask" in name or "bbox_attention" in name for name in model.state_dict())
    (result,) = run(model, {"image": noise(50, 60), "height": 100, "width": 90})
    assert set(result) == {"instances"}
    assert result["instances"].image_size == (100, 90)
    assert set(model.train()(scene_examples[:1])) == LOSSES - {"loss_mask", "loss_dice"}


def test_second_stage_teaches_the_mask_head_alone(build_detr, detr_config, scene_examples, tmp_path):
    boxes = build_detr("MODEL.MASK_ON", "False")
    torch.save({"model": boxes.state_dict()}, tmp_path / "boxes.pth")
    torch.manual_seed(1)
    model = build_model(detr_config("MODEL.DETR.FROZEN_WEIGHTS", str(tmp_path / "boxes.pth"))).train()
    before = copy.deepcopy(model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in boxes.state_dict().items())
    losses = model(scene_examples[:2])
    assert set(losses) == {"loss_mask", "loss_dice"}
    assert len(model.network(model.preprocess(scene_examples[:1])).boxes) == 1  # nothing asks for earlier layers
    sum(losses.values()).backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in learning} == {"bbox_attention", "mask_head"}
    assert learning == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
