"""The whole model: sizes, checkpoints, batches and results."""

from __future__ import annotations

import pickle
import re
from ast import literal_eval

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis

from panoptic_segformer import load_config
from panoptic_segformer.analysis.cost import OPERATOR_FLOPS
from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer

PARAMETERS = {"r50": 45_012_038, "r101": 63_951_942, "swin_t": 41_752_640, "swin_l": 211_571_258}
KEYS = {"r50": "R50", "r101": "R101", "swin_t": "swin_tiny"}


def build_on_meta(config_dir, name: str):
    # Weights of the whole model are named, so those of the backbone are not fetched.
    cfg = load_config(config_dir / f"coco/maskformer_{name}.yaml", ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", "none"])
    with torch.device("meta"):
        return build_model(cfg)


def shapes(state_dict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def released(shared_dir, name: str) -> dict[str, torch.Tensor]:
    lines = (shared_dir / f"keys/maskformer_panoptic_{KEYS[name]}_bs64_554k.txt").read_text().splitlines()
    keys = (line.split("\t") for line in lines)
    return {key: torch.empty(literal_eval(shape), device="meta") for key, shape in keys}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_released_models(config_dir, name):
    assert sum(parameter.numel() for parameter in build_on_meta(config_dir, name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", KEYS)
def test_all_released_keys_fill_the_model(shared_dir, config_dir, name):
    model = build_on_meta(config_dir, name)
    assert shapes(model.convert_state_dict(released(shared_dir, name))) == shapes(model.state_dict())


@pytest.mark.parametrize("name", KEYS)
def test_names_of_before_the_release_convert_alike(shared_dir, config_dir, name):
    model, newer = build_on_meta(config_dir, name), released(shared_dir, name)
    older = {key.replace(".pixel_decoder.", "."): tensor for key, tensor in newer.items()}
    assert set(older) != set(newer)
    assert shapes(model.convert_state_dict(older)) == shapes(model.state_dict())


@pytest.mark.parametrize("name", KEYS)
def test_own_names_stay(config_dir, name):
    model = build_on_meta(config_dir, name)
    assert list(model.convert_state_dict(model.state_dict())) == list(model.state_dict())


def test_upstream_file_loads_through_the_checkpointer(tiny_model, tmp_path):
    """With a name of before the release; a classifier of other classes is left out, as Detectron2 does it."""
    source, model = tiny_model(), tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    content = {key.replace(".pixel_decoder.", "."): tensor for key, tensor in source.state_dict().items()}
    content["sem_seg_head.predictor.class_embed.weight"] = torch.zeros(134, 32)
    torch.save({"model": content}, tmp_path / "model.pth")
    DetectionCheckpointer(model).load(str(tmp_path / "model.pth"))
    for name, tensor in model.state_dict().items():
        if name != "sem_seg_head.predictor.class_embed.weight":
            assert torch.equal(tensor, source.state_dict()[name]), name


def test_bare_swin_loads_through_the_checkpointer(config_dir, tmp_path):
    """As the authors convert it: a pickle whose names Detectron2 is to match by their ends, classifier included."""
    small = ["MODEL.SWIN.EMBED_DIM", "24", "MODEL.SWIN.DEPTHS", "[1, 1, 1, 1]", "MODEL.MASK_FORMER.DEC_LAYERS", "1"]
    path = config_dir / "coco/maskformer_swin_t.yaml"
    model = build_model(load_config(path, [*small, "MODEL.DEVICE", "cpu", "MODEL.TIMM.WEIGHTS", ""]))
    expected = {
        name: torch.rand(tensor.shape)
        for name, tensor in model.backbone.model.state_dict().items()
        if not name.endswith("relative_position_index")
    }
    content = {"head.weight": np.ones((1000, 192)), "norm.weight": np.ones(192), "norm.bias": np.ones(192)}
    for name, tensor in expected.items():
        stage = re.match(r"layers_(\d)\.(.*)", name)
        if stage:  # patches are merged at the end of the stage before, by the authors' names
            number = int(stage[1]) - stage[2].startswith("downsample.")
            name = f"layers.{number}.{stage[2]}"
        content[name] = tensor.numpy()
    content["layers.0.blocks.0.attn.relative_position_index"] = np.zeros((49, 49))
    with open(tmp_path / "swin.pkl", "wb") as file:
        pickle.dump({"model": content, "__author__": "third_party", "matching_heuristics": True}, file)
    PanopticCheckpointer(model).load(str(tmp_path / "swin.pkl"))
    for name, tensor in expected.items():
        assert torch.equal(model.backbone.model.state_dict()[name], tensor), name


@pytest.mark.slow
def test_flops_of_the_released_size(config_dir):
    """181.6 G are reported; the authors' code computes the masks of all six layers, of which this model needs one."""
    model = build_model(load_config(config_dir / "coco/maskformer_r50.yaml", ["MODEL.DEVICE", "cpu"])).eval()
    pictures = [{"image": torch.zeros(3, 800, 1066)}]
    with torch.no_grad():
        flops = FlopCountAnalysis(model, (pictures,)).set_op_handle(**OPERATOR_FLOPS)
        flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counted = flops.total() / 1e9
    five_masks = 5 * 100 * (256 * 200 * 267 + 3 * 256**2) / 1e9
    assert counted == pytest.approx(173.9, abs=0.2)
    assert counted + five_masks == pytest.approx(181.6, abs=1.0)


def pictures(*sizes: tuple[int, int]) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)} for size in sizes]


def run(model, inputs) -> list[dict[str, object]]:
    with torch.no_grad():
        return model(inputs)


# Random weights give no class much probability.
EASY = ("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.0", "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.0")
ALL_RESULTS = (*EASY, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "True")


def certain(model):
    """Let the classifier prefer other classes than "no object", other ones for other queries, and masks differ."""
    torch.nn.init.normal_(model.sem_seg_head.predictor.class_embed.weight, std=2.0)
    torch.nn.init.normal_(model.sem_seg_head.predictor.query_embed.weight, std=5.0)
    torch.nn.init.normal_(model.sem_seg_head.predictor.mask_embed.layers[-1].weight, std=1.0)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -10.0
    return model


@pytest.mark.parametrize("size", [None, (70, 111)])
def test_batch_of_equal_sizes_equals_single_runs(tiny_model, size):
    model = certain(tiny_model(*ALL_RESULTS))
    inputs = pictures((64, 96), (64, 96))
    if size:
        inputs = [{**example, "height": size[0], "width": size[1]} for example in inputs]
    for single, batched in zip((run(model, [example])[0] for example in inputs), run(model, inputs), strict=True):
        (ids, info), (other_ids, other_info) = single["panoptic_seg"], batched["panoptic_seg"]
        assert ids.shape == (size or (64, 96))
        assert ids.unique().numel() > 2
        assert torch.equal(ids, other_ids)
        assert [s.pop("score") for s in info] == pytest.approx([s.pop("score") for s in other_info], rel=1e-4)
        assert info == other_info
        assert torch.allclose(single["sem_seg"], batched["sem_seg"], atol=1e-5)
        # A pixel that rounding takes to the other side of the threshold moves the mean of its mask.
        assert torch.allclose(single["instances"].scores, batched["instances"].scores, atol=1e-4)


def test_results_have_the_agreed_form(tiny_model):
    model = certain(tiny_model(*ALL_RESULTS))
    (result,) = run(model, pictures((33, 47)))
    ids, segments = result["panoptic_seg"]
    assert ids.dtype == torch.int32
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))
    assert [s["area"] for s in segments] == [(ids == s["id"]).sum().item() for s in segments]
    assert set(segments[0]) == {"id", "category_id", "isthing", "score", "area"}
    things, stuff = set(model.categories.thing_ids), set(model.categories.stuff_ids)
    assert all(s["category_id"] in (things if s["isthing"] else stuff) for s in segments)
    assert result["sem_seg"].shape == (12, 33, 47)
    assert set(result["instances"].pred_classes.tolist()) <= things
    assert len(result["instances"]) > 0


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (32, 32)])
def test_small_pictures_have_results(tiny_model, size):
    (result,) = run(tiny_model(*ALL_RESULTS), pictures(size))
    assert result["panoptic_seg"][0].shape == size


def test_half_precision_model_runs(tiny_model):
    (result,) = run(certain(tiny_model(*ALL_RESULTS)).bfloat16(), pictures((32, 64)))
    assert result["instances"].scores.dtype == torch.float32
    assert result["panoptic_seg"][1]


def test_detectron2s_predictor_takes_it(tiny_model, maskformer_config, tmp_path):
    model = certain(tiny_model(*EASY))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    predictor = DefaultPredictor(maskformer_config(*EASY, "MODEL.WEIGHTS", str(tmp_path / "model.pth")))
    (example,) = pictures((96, 128))
    predicted = predictor(example["image"].flip(0).permute(1, 2, 0).numpy())  # BGR
    (expected,) = run(model, [example])
    assert torch.equal(predicted["panoptic_seg"][0], expected["panoptic_seg"][0])


def test_official_results_have_no_instances(tiny_model):
    (result,) = run(tiny_model(), pictures((32, 32)))
    assert set(result) == {"panoptic_seg", "sem_seg"}


def test_semantic_results_can_be_left_out_and_change_nothing(tiny_model):
    """Only the masks of kept queries are resized then."""
    example = pictures((40, 56))
    with_all, alone = certain(tiny_model(*EASY)), tiny_model(*EASY, "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False")
    alone.load_state_dict(with_all.state_dict())
    (expected,), (result,) = run(with_all, example), run(alone, example)
    assert set(result) == {"panoptic_seg"}
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert result["panoptic_seg"][1] == expected["panoptic_seg"][1]


def test_mask_wise_merging_is_an_option(tiny_model):
    merging = ("MODEL.MASK_WISE_MERGING.ENABLED", "True", "MODEL.MASK_WISE_MERGING.SCORE_THRESHOLD", "0.0")
    own, merged = certain(tiny_model(*EASY)), tiny_model(*EASY, *merging)
    merged.load_state_dict(own.state_dict())
    example = pictures((64, 96))
    (first,), (second,) = run(own, example), run(merged, example)
    ids, segments = second["panoptic_seg"]
    assert not torch.equal(ids, first["panoptic_seg"][0])
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))
    assert [s["area"] for s in segments] == [(ids == s["id"]).sum().item() for s in segments]
    scores = [s["score"] for s in segments]
    assert scores == sorted(scores, reverse=True)
    assert torch.equal(first["sem_seg"], second["sem_seg"])
