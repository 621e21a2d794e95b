"""The released arrangement of the work computes what our model computes, and what the released code computed."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from released import as_released
from torch import nn

from golden import Golden
from panoptic_segformer.checkpoint.convert import convert_released
from panoptic_segformer.data.mapper import PanopticDatasetMapper
from test_released_training import MENDED, assert_losses_equal

NODE = "MODEL.PANOPTIC_SEGFORMER"


@pytest.fixture
def build(tiny_config):
    """Function that gives a tiny model in double precision, with options, and examples to learn from."""

    def make(*options: str):
        cfg = tiny_config("INPUT.RANDOM_FLIP", "none", *options)
        torch.manual_seed(0)
        model = build_model(cfg).double()
        mapper = PanopticDatasetMapper(cfg, is_train=True)
        return model, [mapper(record) for record in DatasetCatalog.get("synthetic_train")]

    return make


@pytest.fixture(scope="module")
def golden(shared_dir) -> Golden:
    return Golden(shared_dir / "golden")


def golden_model(golden: Golden, dtype: torch.dtype):
    model = golden.build_model()
    model.load_state_dict(convert_released(golden.state_dict), strict=False)
    return model.to(dtype)


@torch.no_grad()
def results_of(model, example):
    (result,) = model([example])
    return result


def assert_results_equal(theirs, ours, rtol: float, flipped: float) -> None:
    """Compare the results of one picture; `flipped` is the share of pixels that rounding may move."""
    (their_ids, their_info), (our_ids, our_info) = theirs["panoptic_seg"], ours["panoptic_seg"]
    assert their_ids.dtype == our_ids.dtype
    assert (their_ids != our_ids).float().mean() <= flipped
    for key in ("id", "category_id", "isthing"):
        assert [segment[key] for segment in their_info] == [segment[key] for segment in our_info]
    for key in ("score", "area"):
        ours_of_key = [segment[key] for segment in our_info]
        assert [segment[key] for segment in their_info] == pytest.approx(ours_of_key, rel=max(rtol, 3 * flipped))
    theirs, ours = theirs["instances"], ours["instances"]
    assert torch.allclose(theirs.scores, ours.scores, rtol=rtol)
    # Instances of equal score have no order of their own.
    their_order, our_order = (
        sorted(range(len(x)), key=lambda i: (round(x.scores[i].item(), 4), *x.pred_boxes.tensor[i].tolist()))
        for x in (theirs, ours)
    )
    theirs, ours = theirs[their_order], ours[our_order]
    assert torch.equal(theirs.pred_classes, ours.pred_classes)
    assert torch.allclose(theirs.pred_boxes.tensor, ours.pred_boxes.tensor, rtol=rtol, atol=1e-3)
    assert (theirs.pred_masks != ours.pred_masks).float().mean() <= flipped


def split_losses(losses):
    """Return the losses that count, and check that the others are 0."""
    assert any("unused" in name for name in losses)
    assert all(value.item() == 0 for name, value in losses.items() if "unused" in name)
    return {name: value for name, value in losses.items() if "unused" not in name}


def losses_and_gradients(model, example):
    model.zero_grad()
    losses = model([example])
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def test_results_of_a_tiny_model_are_equal(build):
    model, examples = build(f"{NODE}.MERGING.SCORE_THRESHOLD", "0.05")
    model.eval()
    with torch.no_grad():  # Fresh classifiers are sure of nothing, and fresh masks are empty.
        for head in (*model.location_decoder.class_heads, *model.stuff_mask_decoder.class_heads):
            head.bias.zero_()
        for decoder in (model.thing_mask_decoder, model.stuff_mask_decoder):
            decoder.final_attention.fusion.fuse.bias.fill_(0.5)
    example = {"image": examples[0]["image"], "height": 150, "width": 113}
    ours, theirs = results_of(model, example), results_of(as_released(model), example)
    assert len(ours["panoptic_seg"][1]) > 1
    assert_results_equal(theirs, ours, 1e-9, 0.0)


def test_losses_and_gradients_of_a_tiny_model_are_equal(build):
    model, examples = build()
    example = max(examples, key=lambda e: len(e["instances"]))
    for name, parameter in model.named_parameters():  # Fresh offsets lead to pixel centres, where slopes change.
        if name.endswith("sampling_offsets.bias"):
            nn.init.normal_(parameter, std=3)
    released = as_released(model.train())
    ours, our_gradients = losses_and_gradients(model, example)
    theirs, their_gradients = losses_and_gradients(released, example)
    theirs = split_losses(theirs)
    assert set(theirs) == set(ours)
    for name, loss in ours.items():
        assert theirs[name].item() == pytest.approx(loss.item(), rel=1e-9), name
    # The heads whose losses count nothing get gradients, all zero.
    unused = set(their_gradients) - set(our_gradients)
    assert unused == {name for name, _ in model.named_parameters() if "unused" in name}
    assert all(their_gradients[name].count_nonzero() == 0 for name in unused)
    for name, gradient in our_gradients.items():
        assert torch.allclose(their_gradients[name], gradient, rtol=1e-7, atol=1e-12), name


def test_the_model_itself_stays_as_it_is(build):
    model, _ = build()
    before = {name: type(module) for name, module in model.named_modules()}
    released = as_released(model)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert {name for name, module in released.named_modules() if type(module) is not before[name]} >= {
        "",
        "encoder.layers.0",
        "encoder.layers.0.self_attention",
        "location_decoder",
        "thing_mask_decoder",
    }
    assert list(released.state_dict()) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in released.state_dict().items())


def test_other_work_than_the_released_is_refused(build):
    model, examples = build()
    with pytest.raises(ValueError, match="got 2 pictures"):
        as_released(model)(examples[:2])
    for options in (("QUERIES", "joint"), ("SEGMENTS", "stuff"), ("LOCATION_DECODER.NUM_LAYERS", "0")):
        with pytest.raises(ValueError, match="QUERIES 'decoupled', SEGMENTS 'all'"):
            as_released(build(f"{NODE}.{options[0]}", options[1])[0])
    with pytest.raises(ValueError, match="TEST.NUM_MASK_LAYERS is 1 and TEST.SEMANTIC_ON False"):
        as_released(build(f"{NODE}.TEST.NUM_MASK_LAYERS", "1")[0])
    frozen = ("MODEL.TIMM.FREEZE_BATCH_NORM", "True")
    with pytest.raises(ValueError, match="ACTIVATION_CHECKPOINTING to False"):
        as_released(build(f"{NODE}.ACTIVATION_CHECKPOINTING", "True", *frozen)[0])


@pytest.mark.parametrize("run", ["eval1", "evalodd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_of_the_golden_model_are_equal(golden, run, dtype):
    model = golden_model(golden, dtype).eval()
    record = golden.json["evals"][run]["images"][0]
    height, width = golden[f"{run}/pp0.panoptic"].shape[:2]
    example = {"image": golden.image(run), "height": height, "width": width}
    ours, theirs = results_of(model, example), results_of(as_released(model), example)
    # In float32 rounding moves single pixels, and the score of a small mask with them.
    assert_results_equal(theirs, ours, *((2e-3, 1e-3) if dtype == torch.float32 else (1e-9, 0.0)))
    segments_info = theirs["panoptic_seg"][1]
    expected = record["segments_info"]
    assert [segment["category_id"] for segment in segments_info] == [segment["label"] for segment in expected]
    scores = [segment["score"] for segment in expected]
    assert [segment["score"] for segment in segments_info] == pytest.approx(scores, rel=3e-4)


@pytest.mark.parametrize("run", ["train1a", "train_nostuff", "train_nothings"])
def test_losses_are_the_released_ones(golden, run):
    model = as_released(golden_model(golden, torch.float64).train())
    # The released preprocessing is float32; its result is what the double run started from.
    model.preprocess = lambda batched_inputs: [golden[f"{run}/in.img_norm"][0].double()]
    losses = split_losses(model([golden.example(run)]))
    assert_losses_equal(losses, golden.json["trains"][run]["f64"]["losses"], 1e-9, MENDED.get(run))
