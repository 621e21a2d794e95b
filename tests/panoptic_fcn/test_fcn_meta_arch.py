"""The meta-architecture: batches, sizes, what crashed the released code, training, options of results."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_fcn.targets import no_segments

LOSSES = {"loss_pos_th", "loss_pos_st", "loss_seg_th", "loss_seg_st"}


def picture(height: int = 96, width: int = 128, seed: int = 0) -> torch.Tensor:
    """Blocks of colours, so that places differ."""
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, (height, width))[0].to(torch.uint8)


def segments(boxes, classes, size) -> Instances:
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Instances(
        size,
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        gt_masks=BitMasks(masks),
    )


def example(num_things: int = 2, size: tuple[int, int] = (96, 128)) -> dict[str, object]:
    boxes = [(3 * i % 90, 2 * i % 60, 3 * i % 90 + 30, 2 * i % 60 + 20) for i in range(num_things)]
    things = segments(boxes, [i % 2 for i in range(num_things)], size)
    stuff = segments([(0, 0, size[1], size[0])], [1], size)
    return {"image": picture(*size), "instances": things, "stuff": stuff}


def run(model, *examples):
    with torch.no_grad():
        return model([dict(one) for one in examples])


def assert_same(first, second):
    (ids_a, info_a), (ids_b, info_b) = first["panoptic_seg"], second["panoptic_seg"]
    assert torch.equal(ids_a, ids_b)
    assert [(s["id"], s["category_id"], s["area"]) for s in info_a] == [
        (s["id"], s["category_id"], s["area"]) for s in info_b
    ]
    assert [s["score"] for s in info_a] == pytest.approx([s["score"] for s in info_b], abs=1e-5)
    torch.testing.assert_close(first["instances"].scores, second["instances"].scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(first["sem_seg"], second["sem_seg"], rtol=0, atol=1e-4)


def assert_valid(result, size):
    ids, info = result["panoptic_seg"]
    assert ids.shape == size
    assert ids.dtype == torch.int32
    assert [s["id"] for s in info] == list(range(1, len(info) + 1))
    for segment in info:
        assert segment["area"] == (ids == segment["id"]).sum() > 0
        assert 0 <= segment["score"] <= 1
    assert ((ids >= 0) & (ids <= len(info))).all()


def train_step(model, *examples):
    losses = model.train()([dict(one) for one in examples])
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("size", [None, (61, 200)])
def test_batch_of_equal_sizes_equals_single_runs(fcn, size):
    model = fcn()
    pictures = [{"image": picture(seed=seed)} for seed in (0, 1)]
    if size:
        pictures = [{**one, "height": size[0], "width": size[1]} for one in pictures]
    batch = run(model, *pictures)
    for one, batched in zip(pictures, batch, strict=True):
        (single,) = run(model, one)
        assert_same(single, batched)
        assert_valid(batched, size or (96, 128))
        assert len(batched["instances"]) > 10
        assert len(batched["sem_seg"].argmax(0).unique()) > 1
    assert not torch.equal(batch[0]["panoptic_seg"][0], batch[1]["panoptic_seg"][0])


def test_batch_of_two_sizes_gives_each_its_own(fcn):
    results = run(fcn(), {"image": picture(96, 128)}, {"image": picture(50, 70)})
    assert_valid(results[0], (96, 128))
    assert_valid(results[1], (50, 70))
    assert results[1]["sem_seg"].shape[1:] == results[1]["instances"].image_size == (50, 70)


@pytest.mark.parametrize("size", [(1, 1), (20, 33), (96, 1)])
def test_small_pictures_give_results_and_train(fcn, size):
    model = fcn("MODEL.POSITION_HEAD.THING.POS_NUM", "7")
    (result,) = run(model, {"image": picture(*size)})
    assert_valid(result, size)
    small = {
        "image": picture(*size),
        "instances": segments([(0, 0, size[1], size[0])], [0], size),
        "stuff": segments([], [], size),
    }
    assert all(loss.isfinite() for loss in train_step(model, small).values())


def test_all_learning_parameters_get_gradients(fcn):
    model = fcn()
    losses = train_step(model, example(), example(3))
    assert set(losses) == LOSSES
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@pytest.mark.parametrize("lacking", [("instances",), ("stuff",), ("instances", "stuff")])
@pytest.mark.parametrize("given", ["empty", "absent"])
def test_pictures_without_segments_train(fcn, lacking, given):
    """Also those whose dict does not even say so. All parameters stay in the graph, as torch's DDP asks for."""
    one = example()
    for key in lacking:
        if given == "empty":
            one[key] = no_segments((96, 128))
        else:
            del one[key]
    model = fcn()
    losses = train_step(model, one)
    assert all(loss.isfinite() for loss in losses.values())
    assert (losses["loss_seg_th"] == 0) == ("instances" in lacking)
    assert (losses["loss_seg_st"] == 0) == (lacking == ("instances", "stuff"))  # things are a stuff class
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_more_than_100_things_train(fcn):
    losses = train_step(fcn(), example(130))
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_picture_in_which_nothing_is_found_is_void(fcn):
    model = fcn()
    for predictor in (model.position_head.out_inst, model.position_head.out_sem):
        torch.nn.init.constant_(predictor.bias, -99)
    for merging in (False, True):
        if merging:
            model = fcn("MODEL.MASK_WISE_MERGING.ENABLED", "True")
            torch.nn.init.constant_(model.position_head.out_inst.bias, -99)
            torch.nn.init.constant_(model.position_head.out_sem.bias, -99)
        (result,) = run(model, {"image": picture()})
        assert result["panoptic_seg"][1] == []
        assert not result["panoptic_seg"][0].any()
        assert len(result["instances"]) == 0
        assert not result["sem_seg"].any()


def test_threshold_of_kernels_is_not_that_of_instances(fcn):
    """The released code keeps instances from 0.05 on, also with the fast models' higher threshold of kernels."""
    (result,) = run(fcn("MODEL.POSITION_HEAD.THING.THRES", "0.5"), {"image": picture()})
    assert 0.05 <= result["instances"].scores.min() < 0.5


def test_classes_are_the_metadatas(fcn):
    model = fcn()
    (result,) = run(model, {"image": picture()})
    categories = model.categories
    assert result["sem_seg"].shape == (1 + categories.num_stuff, 96, 128)
    assert set(result["instances"].pred_classes.tolist()) <= set(categories.thing_ids)
    for segment in result["panoptic_seg"][1]:
        assert segment["category_id"] in (categories.thing_ids if segment["isthing"] else categories.stuff_ids)


def test_mask_wise_merging_replaces_the_panoptic_result_alone(fcn):
    own = run(fcn(), {"image": picture()})[0]
    opts = ["MODEL.MASK_WISE_MERGING.ENABLED", "True", "MODEL.MASK_WISE_MERGING.SCORE_THRESHOLD", "0.01"]
    merged = run(fcn(*opts), {"image": picture()})[0]
    assert_valid(merged, (96, 128))
    assert merged["panoptic_seg"][1]
    assert not torch.equal(own["panoptic_seg"][0], merged["panoptic_seg"][0])
    assert torch.equal(own["instances"].pred_masks, merged["instances"].pred_masks)
    assert torch.equal(own["sem_seg"], merged["sem_seg"])


def test_combining_can_be_switched_off(fcn):
    (result,) = run(fcn("MODEL.INFERENCE.COMBINE.ENABLE", "False"), {"image": picture()})
    assert set(result) == {"sem_seg", "instances"}


@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_little(fcn, training):
    model = fcn().train(training)
    with torch.no_grad():
        full = model([example()])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model([example()])
    if training:
        assert all(loss.dtype == torch.float32 for loss in half.values())
        assert sum(half.values()).item() == pytest.approx(sum(full.values()).item(), rel=0.05)
    else:
        assert half[0]["sem_seg"].dtype == torch.float32
        assert_valid(half[0], (96, 128))


def test_half_precision_model_runs(fcn):
    (result,) = run(fcn().bfloat16(), {"image": picture()})
    assert result["instances"].scores.dtype == torch.float32
    assert_valid(result, (96, 128))
