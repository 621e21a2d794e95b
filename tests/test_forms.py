"""Every form and variant of the model: builds, learns a scene, predicts valid results, has the published size."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from panoptic_segformer import load_config
from panoptic_segformer.data.mapper import PanopticDatasetMapper
from panoptic_segformer.training.trainer import PanopticTrainer

NODE = "MODEL.PANOPTIC_SEGFORMER"
JOINT = {"QUERIES": "joint", "LOCATION_DECODER.LOCATION": "center_scale", "MATCHER.MASK_STAGE_CLASS_COST": "2.0"}
JOINT_MERGING = {
    "MERGING.MASK_EXPONENT": "0.0",
    "MERGING.THING_OVERLAP_THRESHOLD": "1.0",
    "MERGING.STUFF_OVERLAP_THRESHOLD": "1.0",
}
VARIANTS = {
    "joint": {**JOINT, **JOINT_MERGING},
    "joint_boxes": {"QUERIES": "joint"},
    "joint_without_location": {**JOINT, "LOCATION_DECODER.NUM_LAYERS": "0"},
    "joint_things": {**JOINT, "SEGMENTS": "things"},
    "joint_stuff": {**JOINT, "SEGMENTS": "stuff"},
    "location_layers_0": {"LOCATION_DECODER.NUM_LAYERS": "0"},
    "location_layers_1": {"LOCATION_DECODER.NUM_LAYERS": "1"},
    "location_layers_6": {"LOCATION_DECODER.NUM_LAYERS": "6"},
    "center": {"LOCATION_DECODER.LOCATION": "center"},
    "center_scale": {"LOCATION_DECODER.LOCATION": "center_scale"},
    "things": {"SEGMENTS": "things"},
    "things_without_location": {"SEGMENTS": "things", "LOCATION_DECODER.NUM_LAYERS": "0"},
    "stuff": {"SEGMENTS": "stuff"},
}


def words(options: dict[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in (f"{NODE}.{key}", value)]


@pytest.fixture
def build(tiny_config):
    """Function that gives the model of some options and two training examples for it."""

    def make(options: dict[str, str]):
        cfg = tiny_config("INPUT.RANDOM_FLIP", "none", *words(options))
        torch.manual_seed(0)
        model = build_model(cfg)
        mapper = PanopticDatasetMapper(cfg, is_train=True)
        examples = [mapper(record) for record in DatasetCatalog.get("synthetic_train")]
        return model, [example for example in examples if len(example["instances"]) > 1][:2]

    return make


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_learns_and_every_learned_parameter_takes_part(build, name):
    model, examples = build(VARIANTS[name])
    model.train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-4)
    totals = []
    for _ in range(4):
        losses = model(examples)
        assert all(loss.isfinite() for loss in losses.values())
        total = sum(losses.values())
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert totals[-1] < totals[0]
    # DDP would wait for the gradient of a parameter that has none.
    lacking = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert lacking <= set(model._ddp_params_and_buffers_to_ignore)


def assert_valid(result, categories) -> None:
    segment_ids, segments_info = result["panoptic_seg"]
    assert [segment["id"] for segment in segments_info] == list(range(1, len(segments_info) + 1))
    assert set(segment_ids.unique().tolist()) - {0} == {segment["id"] for segment in segments_info}
    for segment in segments_info:
        assert segment["area"] == int((segment_ids == segment["id"]).sum())
        assert segment["category_id"] in (categories.thing_ids if segment["isthing"] else categories.stuff_ids)
    stuff = [segment["category_id"] for segment in segments_info if not segment["isthing"]]
    assert len(stuff) == len(set(stuff))
    boxes = result["instances"].pred_boxes.tensor
    assert boxes.shape == (len(result["instances"]), 4)
    assert boxes.isfinite().all()


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_predicts_valid_results(build, name, layers):
    # Fresh models are sure of nothing: every mask enters the merging.
    low = {"MERGING.SCORE_THRESHOLD": "0.0", "MERGING.MASK_THRESHOLD": "0.0", "TEST.SEMANTIC_ON": "True"}
    model, examples = build({**VARIANTS[name], **low, "TEST.NUM_MASK_LAYERS": str(layers)})
    images = [{"image": example["image"]} for example in examples]
    with torch.no_grad():
        results = model.eval()(images)
    assert any(result["panoptic_seg"][1] for result in results)
    for image, result in zip(images, results, strict=True):
        assert_valid(result, model.categories)
        assert result["panoptic_seg"][0].shape == image["image"].shape[1:]
        assert result["sem_seg"].isfinite().all()
        if model.categories.num_things:
            assert len(result["instances"]) > 0


@pytest.mark.parametrize("name", ["joint", "location_layers_6"])
def test_activation_checkpointing_changes_neither_losses_nor_gradients(build, name):
    found = []
    for recomputes in ("False", "True"):
        model, examples = build({**VARIANTS[name], "ACTIVATION_CHECKPOINTING": recomputes})
        torch.manual_seed(1)  # of dropout
        losses = model.train()(examples)
        sum(losses.values()).backward()
        found.append((losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (losses, gradients), (losses_again, gradients_again) = found
    assert torch.equal(torch.stack(list(losses.values())), torch.stack(list(losses_again.values())))
    assert gradients.keys() == gradients_again.keys()
    for parameter, gradient in gradients.items():
        assert torch.allclose(gradients_again[parameter], gradient, rtol=1e-4, atol=1e-6), parameter


def test_losses_of_the_joint_form_are_named_by_layer(build):
    model, examples = build({**JOINT, "MASK_DECODER.NUM_JOINT_BLOCKS": "2"})
    losses = model.train()(examples)
    names = {f"loss_box_{layer}" for layer in range(2)} | {f"loss_class_joint_{block}" for block in range(2)}
    assert set(losses) == names | {f"loss_mask_joint_{layer}" for layer in (0, 1, "final")}


def test_batch_of_the_joint_form_is_the_mean_over_its_segments(build):
    model, examples = build(JOINT)
    model.train()
    together = model(examples)
    numbers = [len(example["instances"]) + len(example["stuff"]) for example in examples]
    alone = [model([example]) for example in examples]
    for name, loss in together.items():
        expected = sum(n * losses[name].item() for n, losses in zip(numbers, alone, strict=True)) / sum(numbers)
        assert loss.item() == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize("name", ["joint", "center", "location_layers_0", "location_layers_6"])
def test_losses_stay_in_full_precision_under_autocast(build, name):
    model, examples = build(VARIANTS[name])
    model.train()
    full = sum(model(examples).values()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(examples)
    assert all(loss.dtype == torch.float32 for loss in half.values())
    sum(half.values()).backward()
    lacking = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert lacking <= set(model._ddp_params_and_buffers_to_ignore)
    assert sum(half.values()).item() == pytest.approx(full, rel=0.05)


def test_locations_without_giou_learn_no_giou(build):
    for location in ("center", "center_scale"):
        model, examples = build({"LOCATION_DECODER.LOCATION": location})
        losses = model.train()(examples)
        assert "loss_box_1" in losses
        assert not any("giou" in name for name in losses)


def test_boxes_of_the_variant_without_boxes_are_those_of_the_masks(build):
    model, examples = build({"LOCATION_DECODER.LOCATION": "center", "MERGING.MASK_THRESHOLD": "0.0"})
    with torch.no_grad():
        instances = model.eval()([{"image": examples[0]["image"]}])[0]["instances"]
    filled = instances.pred_masks.any(2).any(1)
    assert filled.any()
    for mask, box in zip(instances.pred_masks[filled], instances.pred_boxes.tensor[filled], strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_models_of_one_kind_have_no_other_decoders(build):
    things, _ = build({"SEGMENTS": "things"})
    assert things.stuff_mask_decoder is None
    assert things.categories.num_stuff == 0
    stuff, _ = build({"SEGMENTS": "stuff"})
    assert stuff.location_decoder is None
    assert stuff.thing_mask_decoder is None


@pytest.mark.parametrize(
    ("segments", "off", "tasks"),
    [("things", "PANOPTIC_ON", {"segm", "bbox"}), ("stuff", "INSTANCE_ON", {"sem_seg"})],
)
def test_models_of_one_kind_train_and_are_evaluated_by_their_measures(tiny_config, segments, off, tasks):
    cfg = tiny_config(*words({"SEGMENTS": segments, f"TEST.{off}": "False"}), "SOLVER.MAX_ITER", "2")
    trainer = PanopticTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert set(results) == tasks
    if segments == "stuff":
        names = trainer._trainer.model.categories.stuff_names
        assert {key for key in results["sem_seg"] if key.startswith("IoU-")} == {f"IoU-{name}" for name in names}


# Learned parameters, and what the first version's table says, in millions (docs/forms.md).
FIRST_VERSION = {
    "r50": (46_974_006, 47.0),
    "r101": (65_913_910, 65.9),
    "pvtv2b0": (22_227_862, 22.2),
    "pvtv2b2": (41_571_318, 41.6),
    "pvtv2b5": (100_973_814, 100.9),
}


def count_learned(config_dir, name: str) -> int:
    cfg = load_config(config_dir / f"coco/{name}.yaml", ["MODEL.DEVICE", "meta", "MODEL.TIMM.WEIGHTS", ""])
    with torch.device("meta"):
        model = build_model(cfg)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("backbone", FIRST_VERSION)
def test_first_version_has_the_published_parameters(config_dir, backbone):
    expected, published = FIRST_VERSION[backbone]
    found = count_learned(config_dir, f"panoptic_segformer_v1_{backbone}")
    assert found == expected
    assert found / 1e6 == pytest.approx(published, abs=0.1)


# The released model's 50,996,380 without the stuff decoder, and without location and thing mask decoder.
@pytest.mark.parametrize(("kind", "expected"), [("things", 44_513_791), ("stuff", 39_895_453)])
def test_configs_of_one_kind_leave_the_other_decoders_out(config_dir, kind, expected):
    assert count_learned(config_dir, f"panoptic_segformer_r50_2x_{kind}") == expected
