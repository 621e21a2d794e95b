"""The example for ONNX Runtime: its numpy is the project's merging, and it needs neither torch nor Detectron2."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import example as always
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from documents import ROOT
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.inference.merging import MergeOptions
from panoptic_segformer.inference.outputs import Outputs, picture_results

pytest.importorskip("onnxruntime", reason="the example needs the extra export")

EXAMPLE = ROOT / "examples/onnx_runtime.py"
PANOPTIC = Outputs(panoptic=True, instances=False, semantic=False)
LIMITS = {"least_side": 20, "greatest_side": 500}
CATEGORIES = Categories((0, 1), (2, 3), ("a", "b"), ("c", "d"), ((1, 2, 3),) * 2, ((4, 5, 6),) * 2)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("onnx_runtime", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sizes(greatest: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(1, greatest), st.integers(1, greatest))


@given(source=sizes(12), target=sizes(40), seed=st.integers(0, 99))
def test_upsampling_is_torchs(example, source, target, seed):
    mask = torch.randn(source, generator=torch.Generator().manual_seed(seed))
    expected = torch.nn.functional.interpolate(mask[None, None], target, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(example.upsample(mask.numpy(), target), expected.numpy(), rtol=1e-5, atol=1e-5)


@given(
    seed=st.integers(0, 10_000),
    number=st.integers(1, 12),
    size=sizes(50),
    class_exponent=st.sampled_from([0.0, 1.0, 1.5]),
    mask_exponent=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_merging_is_the_projects(example, seed, number, size, class_exponent, mask_exponent):
    random = torch.Generator().manual_seed(seed)
    is_thing = torch.arange(number) < number // 2
    category_ids = torch.randint(0, 2, (number,), generator=random) + 2 * ~is_thing
    candidates = Candidates(
        masks=(torch.randn(number, 6, 7, generator=random) + 0.3).clamp(min=0),
        class_probs=torch.rand(number, generator=random),
        category_ids=category_ids,
        is_thing=is_thing,
        boxes=torch.rand(number // 2, 4, generator=random),
    )
    options = MergeOptions(0.5, 0.2, 0.4, 0.6, class_exponent, mask_exponent)
    ids, records = picture_results(candidates, size, CATEGORIES, options, PANOPTIC)["panoptic_seg"]
    arrays = {name: getattr(candidates, name).numpy() for name in ("masks", "class_probs", "category_ids", "is_thing")}
    own_ids, own_records = example.merge(arrays, size, asdict(options))
    kinds = [[(r["id"], r["category_id"], r["isthing"]) for r in each] for each in (own_records, records)]
    assert kinds[0] == kinds[1]
    np.testing.assert_array_equal(own_ids, ids.numpy())
    assert [r["area"] for r in own_records] == [r["area"] for r in records]
    assert [r["score"] for r in own_records] == pytest.approx([r["score"] for r in records], rel=1e-5)


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (33, 100), (200, 190)])
@pytest.mark.parametrize(("short_side", "long_side"), [(96, 128), (0, 0), (0, 100), (150, 0)])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_resizing_is_detectron2s(example, size, short_side, long_side, channels):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    options = {"short_side": short_side, "long_side": long_side, "channels": channels, **LIMITS}
    resized = T.ResizeShortestEdge(short_side, long_side or 10**6).get_transform(picture).apply_image(picture)
    expected = (resized if channels == "RGB" else resized[..., ::-1]).transpose(2, 0, 1)
    np.testing.assert_array_equal(example.network_input(picture, options), expected)


@given(size=sizes(3000), short_side=st.integers(1, 900), long_side=st.integers(1, 1500))
@always(size=(392, 2048), short_side=480, long_side=640)  # where another order of the steps rounds otherwise
def test_sizes_are_detectron2s(example, size, short_side, long_side):
    expected = T.ResizeShortestEdge.get_output_shape(*size, short_side, long_side)
    assert example._resized(*size[::-1], short_side, long_side) == expected[::-1]


@pytest.mark.parametrize("size", [(19, 80), (80, 501)])
def test_picture_out_of_the_networks_limits_is_refused(example, size):
    options = {"short_side": 0, "long_side": 0, "channels": "RGB", **LIMITS}
    with pytest.raises(SystemExit, match="{}x{} pixels, the network takes 20 to 500".format(*size)):
        example.network_input(np.zeros((*size, 3), np.uint8), options)


def test_overlay_has_the_colours_of_the_classes(example):
    ids = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.int32)
    categories = [{"id": 3, "isthing": True, "name": "cat", "color": [100, 0, 200]}]
    records = [{"id": 1, "category_id": 3, "isthing": True}]
    picture = np.full((2, 4, 3), 40, np.uint8)
    drawn = example.overlay(picture, ids, records, categories)
    assert drawn[0, 0].tolist() == [40, 40, 40]
    assert drawn[0, 2].tolist() == [255, 255, 255]  # the border
    assert drawn[0, 3].tolist() == [73, 18, 128]


def write_network(path, description: str | None) -> None:
    """A network of two candidates, a thing on the left half and stuff everywhere, whatever the picture."""
    onnx = pytest.importorskip("onnx", reason="makes the network of this test")
    masks = np.ones((2, 4, 4), np.float32)
    masks[0, :, 2:] = 0
    values = {
        "masks": masks,
        "class_probs": np.array([0.9, 0.8], np.float32),
        "category_ids": np.array([0, 1]),
        "is_thing": np.array([True, False]),
        "boxes": np.zeros((1, 4), np.float32),
    }
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [helper.make_node("Constant", [], [k], value=numpy_helper.from_array(v, k)) for k, v in values.items()]
    kinds = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in values.items()
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [3, "height", "width"])
    graph = helper.make_graph(nodes, "fixed", [image], kinds)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if description:
        helper.set_model_props(model, {"panoptic_segformer": description})
    onnx.save(model, path)


DESCRIPTION = {
    "categories": [
        {"id": 0, "name": "cat", "isthing": True, "color": [200, 0, 0]},
        {"id": 1, "name": "grass", "isthing": False, "color": [0, 200, 0]},
    ],
    "input": {"short_side": 0, "long_side": 0, "channels": "RGB", "least_side": 65, "greatest_side": 8192},
    "merging": {
        "mask_threshold": 0.5,
        "score_threshold": 0.3,
        "thing_overlap_threshold": 0.5,
        "stuff_overlap_threshold": 0.8,
        "class_exponent": 1.0,
        "mask_exponent": 1.0,
    },
}


def test_command_writes_its_results_without_torch(tmp_path):
    write_network(tmp_path / "model.onnx", json.dumps(DESCRIPTION))
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / "street.png")
    words = ["onnx_runtime.py", "model.onnx", "street.png", "--output", "out"]
    code = f"""
import runpy, sys
sys.argv = {words!r}
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
assert not {{"torch", "detectron2", "panoptic_segformer"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out/street.json").read_text())
    segments = content["segments_info"]
    assert [(s["id"], s["name"], s["area"]) for s in segments] == [(1, "cat", 4000), (2, "grass", 4000)]
    ids = np.asarray(Image.open(tmp_path / "out" / content["file_name"])).astype(int) @ [1, 256, 65536]
    assert (ids[:, :50] == 1).all()
    assert (ids[:, 50:] == 2).all()
    assert Image.open(tmp_path / "out/street_overlay.png").size == (100, 80)


def test_file_without_description_is_refused(example, tmp_path):
    write_network(tmp_path / "other.onnx", None)
    with pytest.raises(SystemExit, match="does not describe itself"):
        example.OnnxPanoptic(tmp_path / "other.onnx")
