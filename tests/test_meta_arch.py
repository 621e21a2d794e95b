"""The meta-architecture: sizes, batches, padding, results, and bad configs."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from detectron2.modeling import build_model

from golden import Golden
from panoptic_segformer import load_config
from panoptic_segformer.checkpoint.convert import convert_released
from panoptic_segformer.inference.merging import score_candidates
from panoptic_segformer.inference.outputs import panoptic_result
from panoptic_segformer.modeling.levels import FeatureLevels
from tiny import tiny_overrides


@pytest.fixture(scope="module")
def golden(shared_dir) -> Golden:
    return Golden(shared_dir / "golden")


@pytest.fixture(scope="module")
def golden_model(golden):
    model = golden.build_model()
    model.load_state_dict(convert_released(golden.state_dict), strict=False)
    return model


@pytest.fixture(scope="module")
def released_size_model(config_dir):
    torch.manual_seed(0)
    return build_model(load_config(config_dir / "coco/panoptic_segformer_r50_2x.yaml", ["MODEL.DEVICE", "cpu"]))


def run(model, *images):
    with torch.no_grad():
        return model([{"image": image} for image in images])


def equal_pixels(first, second) -> float:
    """Share of pixels with the same segment: same category and same place in the order of painting."""
    (ids_a, info_a), (ids_b, info_b) = first["panoptic_seg"], second["panoptic_seg"]
    assert [s["category_id"] for s in info_a] == [s["category_id"] for s in info_b]
    return (ids_a == ids_b).float().mean().item()


def test_parameter_counts_are_the_released_models(released_size_model):
    parameters = list(released_size_model.parameters())
    assert sum(p.numel() for p in parameters) == 51_218_780
    assert sum(p.numel() for p in parameters if p.requires_grad) == 50_996_380


def test_initialization_follows_the_released_model(released_size_model, golden):
    record = json.loads((golden.folder / "init_stats_r50.json").read_text())
    stats = convert_released(record)
    parameters = dict(released_size_model.named_parameters())
    compared = 0
    for name, (mean, std, low, high) in stats.items():
        if name.startswith("backbone") or name not in parameters:
            continue  # comes from a checkpoint
        values = parameters[name].detach().double()
        if values.numel() < 64:
            continue  # too few numbers to tell a distribution
        scale = max(abs(low), abs(high), 1e-12)
        spread = 6 / values.numel() ** 0.5 + 1e-6
        assert values.mean().item() == pytest.approx(mean, abs=spread * scale), name
        assert values.std(unbiased=False).item() == pytest.approx(std, abs=spread * scale), name
        assert values.abs().max().item() <= scale * (1.6 if values.numel() < 1e6 else 1.2), name
        compared += 1
    assert compared > 400
    first, *others = (head.layers[-1].bias for head in released_size_model.location_decoder.box_heads)
    assert first.tolist() == [0, 0, -2, -2]
    assert all(bias.count_nonzero() == 0 for bias in others)


def test_batch_of_equal_sizes_equals_single_runs(golden, golden_model):
    first = golden.image("eval1")
    second = first.flip(-1)
    singles = [run(golden_model, image)[0] for image in (first, second)]
    for single, batched in zip(singles, run(golden_model, first, second), strict=True):
        assert equal_pixels(single, batched) == 1.0
        for a, b in zip(single["panoptic_seg"][1], batched["panoptic_seg"][1], strict=True):
            assert a["score"] == pytest.approx(b["score"], rel=1e-5)
        one, two = single["instances"], batched["instances"]
        assert torch.allclose(one.scores, two.scores, atol=1e-5)
        assert torch.allclose(one.pred_boxes.tensor, two.pred_boxes.tensor, atol=1e-5 * max(one.image_size))


def test_batch_of_two_sizes_equals_single_runs(golden, golden_model):
    images = [golden.image("eval2", 0), golden.image("eval2", 1)]
    assert images[0].shape != images[1].shape
    for image, batched in zip(images, run(golden_model, *images), strict=True):
        single = run(golden_model, image)[0]
        assert torch.equal(single["panoptic_seg"][0], batched["panoptic_seg"][0])
        assert [s["category_id"] for s in single["panoptic_seg"][1]] == [
            s["category_id"] for s in batched["panoptic_seg"][1]
        ]
        # Rounding decides on which side of the threshold a pixel lies, and one pixel moves the mean of a small mask.
        assert torch.allclose(single["instances"].scores, batched["instances"].scores, atol=1e-3)


def test_pictures_decoded_together_equal_those_decoded_alone(golden, golden_model):
    """As a GPU does it: the first and the last picture have one size, and the batch pads them both."""
    wide, tall = golden.image("eval2", 0), golden.image("eval2", 1)
    assert wide.shape != tall.shape
    with torch.no_grad():
        levels = golden_model.extract_levels(
            golden_model.preprocess([{"image": x} for x in (tall, wide, tall.flip(-1))])
        )
        memory = golden_model.encoder(levels)
        location = golden_model.location_decoder(memory, levels)
        assert levels.same_sizes() == [[0, 2], [1]]
        together = golden_model.decode_candidates(memory, levels, location, [0, 2])
        alone = [golden_model.decode_candidates(memory, levels, location, [picture])[0] for picture in (0, 2)]
    for both, one in zip(together, alone, strict=True):
        for field in dataclasses.fields(one):
            actual, expected = getattr(both, field.name), getattr(one, field.name)
            assert actual.shape == expected.shape
            assert torch.allclose(actual.float(), expected.float(), atol=1e-4), field.name


def test_results_come_in_the_order_of_the_batch(golden, golden_model):
    first, second = golden.image("eval2", 0), golden.image("eval2", 1)
    images = [first, second, first.flip(-1)]
    for image, batched in zip(images, run(golden_model, *images), strict=True):
        assert equal_pixels(run(golden_model, image)[0], batched) >= 0.999


def test_other_pictures_content_has_no_effect(golden, golden_model):
    small, large = golden.image("eval2", 1), golden.image("eval2", 0)
    first = run(golden_model, small, large)[0]
    second = run(golden_model, small, large.flip(-1))[0]
    assert torch.equal(first["panoptic_seg"][0], second["panoptic_seg"][0])
    assert torch.equal(first["instances"].scores, second["instances"].scores)


def test_padded_batch_equals_the_released_encoder_and_location_decoder(golden, golden_model):
    """From the stored neck outputs on: the released neck averages over padding, ours does not."""
    maps = [golden[f"eval2/neck.{level}"] for level in range(4)]
    masks = [~golden[f"eval2/mask.{level}"] for level in range(4)]
    sizes = [[(int(mask[i, :, 0].sum()), int(mask[i, 0].sum())) for mask in masks] for i in range(2)]
    levels = FeatureLevels(maps, sizes)
    assert torch.allclose(levels.valid_ratios, golden["eval2/tr.valid_ratios"])
    with torch.no_grad():
        memory = golden_model.encoder(levels)
        location = golden_model.location_decoder(memory, levels)
    inside = ~golden["eval2/tr.mask_flatten"]
    assert torch.allclose(memory[inside], golden["eval2/tr.memory"][inside], rtol=1e-4, atol=2e-5)
    assert torch.allclose(location.class_logits[-1], golden["eval2/head.cls"][-1], rtol=1e-4, atol=2e-5)
    assert torch.allclose(location.boxes[-1], golden["eval2/head.box"][-1], rtol=1e-4, atol=2e-5)


def test_dropping_candidates_early_changes_nothing(golden, golden_model):
    image = golden.image("eval1")
    result = run(golden_model, image)[0]
    size = tuple(image.shape[-2:])
    with torch.no_grad():
        levels = golden_model.extract_levels(golden_model.preprocess([{"image": image}]))
        memory = golden_model.encoder(levels)
        location = golden_model.location_decoder(memory, levels)
        (candidates,) = golden_model.collect_candidates(memory, levels, location)
    options = golden_model.inference_options.merging
    scores = score_candidates(candidates.class_probs, candidates.masks, size, options)
    segment_ids, segments_info = panoptic_result(candidates, scores, size, options)
    assert torch.equal(segment_ids, result["panoptic_seg"][0])
    assert segments_info == result["panoptic_seg"][1]


def test_outputs_are_those_asked_for(golden):
    prefix = "MODEL__PANOPTIC_SEGFORMER__TEST__"
    model = golden.build_model(**{f"{prefix}INSTANCE_ON": "False", f"{prefix}SEMANTIC_ON": "True"})
    model.load_state_dict(convert_released(golden.state_dict), strict=False)
    result = run(model, golden.image("evalodd"))[0]
    assert set(result) == {"panoptic_seg", "sem_seg"}
    assert result["sem_seg"].shape == (133, *golden.image("evalodd").shape[-2:])
    assert result["sem_seg"].isfinite().all()


def test_picture_without_segments_trains(golden, golden_model):
    example = golden.example("train1a")
    empty = {
        "image": example["image"],
        "instances": example["instances"][torch.zeros(0, dtype=torch.int64)],
        "stuff": example["stuff"][torch.zeros(0, dtype=torch.int64)],
    }
    model = golden_model.train()
    try:
        losses = model([empty])
        sum(losses.values()).backward()
    finally:
        golden_model.eval()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_class_0"] > 0
    assert losses["loss_mask_thing_final"] == 0
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(".unused_" in name for name in lacking)
    model.zero_grad()


@pytest.mark.parametrize(("key", "found"), [("NUM_THING_CLASSES", 80), ("NUM_STUFF_CLASSES", 53)])
def test_class_count_that_disagrees_with_the_metadata_raises(golden, key, found):
    with pytest.raises(ValueError, match=rf"{key} is 7, but dataset 'coco_2017_train_panoptic' has {found}"):
        golden.build_model(**{f"MODEL__PANOPTIC_SEGFORMER__{key}": "7"})


def test_config_without_dataset_raises(golden):
    with pytest.raises(ValueError, match="classes come from a dataset's metadata"):
        golden.build_model(DATASETS__TRAIN="()", DATASETS__TEST="()")


def test_datasets_of_different_classes_are_refused(tiny_config, scenes_root, tmp_path):
    content = json.loads((scenes_root / "synthetic_scenes/val/panoptic.json").read_text())
    content["categories"].reverse()
    for number, category in enumerate(content["categories"], start=1):
        category["id"] = number
    (tmp_path / "reversed.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'synthetic_train'.*'synthetic_val'.*differ in their classes"):
        build_model(tiny_config("DATASETS.REGISTER.synthetic_val.PANOPTIC_JSON", str(tmp_path / "reversed.json")))


@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_little(golden, golden_model, training):
    """Geometry, matching and losses stay in float32, so that half precision costs rounding alone."""
    example = golden.example("train1a")
    golden_model.train(training)
    try:
        with torch.no_grad():
            full = golden_model([example])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = golden_model([example])
    finally:
        golden_model.eval()
    if training:
        assert all(loss.dtype == torch.float32 for loss in half.values())
        assert sum(half.values()).item() == pytest.approx(sum(full.values()).item(), rel=0.05)
    else:
        boxes = half[0]["instances"].pred_boxes.tensor
        assert boxes.dtype == torch.float32
        assert len(boxes.unique()) > 0.5 * boxes.numel()  # bfloat16 would have few distinct coordinates


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu(golden, golden_model):
    model = copy.deepcopy(golden_model).cuda()
    image = golden.image("eval1")
    on_cpu, on_gpu = run(golden_model, image)[0], run(model, image)[0]
    on_gpu["panoptic_seg"] = (on_gpu["panoptic_seg"][0].cpu(), on_gpu["panoptic_seg"][1])
    assert equal_pixels(on_cpu, on_gpu) >= 0.999
    losses = {device: m.train()([golden.example("train1a")]) for device, m in (("cpu", golden_model), ("gpu", model))}
    golden_model.eval()
    for name, loss in losses["cpu"].items():
        assert losses["gpu"][name].item() == pytest.approx(loss.item(), rel=1e-3), name


def test_half_precision_model_runs(golden, golden_model):
    model = copy.deepcopy(golden_model).bfloat16()
    result = run(model, golden.image("eval1"))[0]
    assert result["instances"].scores.dtype == torch.float32


@pytest.mark.slow
def test_network_compiles_as_one_graph(config_dir, tmp_path):
    """From pixels to candidates; merging, whose work depends on what was found, stays outside."""
    overrides = [*tiny_overrides(tmp_path), "DATASETS.TRAIN", '("coco_2017_train_panoptic",)', "DATASETS.TEST", "()"]
    model = build_model(load_config(config_dir / "synthetic/panoptic_segformer_lite0.yaml", overrides)).eval()

    def network(image):
        levels = model.extract_levels(model.preprocess([{"image": image}]))
        memory = model.encoder(levels)
        return model.collect_candidates(memory, levels, model.location_decoder(memory, levels))[0]

    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        for size in ((96, 128), (80, 112)):
            image = torch.rand(3, *size) * 255
            expected, actual = network(image), compiled(image)
            torch.testing.assert_close(actual.masks, expected.masks, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(actual.class_probs, expected.class_probs)
            assert torch.equal(actual.category_ids, expected.category_ids)
