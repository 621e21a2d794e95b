"""Files of both formats compute what the model does, at sizes that were not traced, and describe themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from panoptic_segformer.export.checking import check_parity, scene_image
from panoptic_segformer.export.description import describe
from panoptic_segformer.export.files import FORMATS, read_description
from panoptic_segformer.export.network import ExportableNetwork
from panoptic_segformer.export.program import export_program
from panoptic_segformer.ops import backend

pytestmark = pytest.mark.slow

SIZES = [(65, 65), (97, 131), (140, 75), (128, 192)]
TOLERANCE = 1e-4


@pytest.fixture(scope="session", params=sorted(FORMATS))
def exported(request, small_config, small_model, small_program, tmp_path_factory):
    form = FORMATS[request.param]
    for module in form.modules:
        pytest.importorskip(module, reason=f"format {request.param} needs the extra export")
    path = tmp_path_factory.mktemp("exported") / f"small{form.suffix}"
    form.write(small_program, describe(small_config, small_model), path)
    return path, form.open(path)


@pytest.mark.parametrize("size", SIZES)
def test_file_computes_what_the_model_does(small_model, exported, size):
    parity = check_parity(small_model, exported[1], scene_image(size, "RGB"))
    assert not parity.fails(TOLERANCE), parity
    assert parity.segments > 3


def test_file_of_another_model_is_told_apart(small_model, exported):
    bias = small_model.thing_mask_decoder.final_attention.fusion.fuse.bias
    try:
        with torch.no_grad():
            bias += 1
        parity = check_parity(small_model, exported[1], scene_image((97, 131), "RGB"))
    finally:
        with torch.no_grad():
            bias -= 1
    assert parity.errors["masks"] == pytest.approx(1, rel=0.05)
    assert parity.fails(TOLERANCE)


def test_file_describes_itself(small_config, small_model, exported):
    description = read_description(exported[0])
    assert description == describe(small_config, small_model)
    assert len(description["categories"]) == 133
    person = {"id": 0, "name": "person", "isthing": True, "color": [220, 20, 60]}
    assert description["categories"][0] == person
    assert description["input"]["pixel_mean"] == pytest.approx([123.675, 116.28, 103.53], rel=1e-6)
    assert description["merging"]["mask_threshold"] == 0.5


def test_file_of_torch_needs_no_other_package(small_program, small_model, small_config, tmp_path):
    path = tmp_path / "alone.pt2"
    FORMATS["torch"].write(small_program, describe(small_config, small_model), path)
    image = scene_image((97, 131), "RGB")
    torch.save(image, tmp_path / "image.pth")
    code = f"""
import sys, torch
program = torch.export.load({str(path)!r}).module()
torch.save(program(torch.load({str(tmp_path / "image.pth")!r})), {str(tmp_path / "outputs.pth")!r})
assert not any(name.startswith(("panoptic_segformer", "detectron2")) for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = ExportableNetwork(small_model)(image)
    for output, truth in zip(torch.load(tmp_path / "outputs.pth"), expected, strict=True):
        torch.testing.assert_close(output, truth, rtol=TOLERANCE, atol=TOLERANCE)


def test_program_with_the_operator_is_the_model_to_the_bit(small_model):
    if backend("cpu").name != "compiled":
        pytest.skip(f"the operator is not compiled: {backend('cpu').reason}")
    program = export_program(ExportableNetwork(small_model), with_operator=True)
    assert any("ms_deform_attn_fused" in str(node.target) for node in program.graph.nodes)
    image = scene_image((97, 131), "RGB")
    with torch.no_grad():
        expected = ExportableNetwork(small_model)(image)
    for output, truth in zip(program.module()(image), expected, strict=True):
        torch.testing.assert_close(output, truth, rtol=1e-6, atol=1e-6)
