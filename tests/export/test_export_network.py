"""What is exported is the model up to merging, and one program runs at all sizes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from panoptic_segformer.export.checking import scene_image
from panoptic_segformer.export.network import OUTPUT_NAMES, ExportableNetwork
from panoptic_segformer.inference.candidates import Candidates

# The smallest, an odd one, a portrait, a multiple of 64.
SIZES = [(65, 65), (97, 131), (140, 75), (128, 192)]


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_network_and_merging_are_the_model(small_model, size):
    image = scene_image(size, "RGB")
    candidates = Candidates(**ExportableNetwork(small_model).outputs(image))
    ids, segments = small_model.merge(candidates, size)["panoptic_seg"]
    expected_ids, expected_segments = small_model([{"image": image}])[0]["panoptic_seg"]
    assert torch.equal(ids, expected_ids)
    assert segments == expected_segments
    assert len(segments) > 3  # or all maps would be equal


def test_outputs_are_the_fields_of_candidates():
    assert [field.name for field in dataclasses.fields(Candidates)] == list(OUTPUT_NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_program_runs_at_all_sizes(small_model, small_program, size):
    image = scene_image(size, "RGB")
    expected = ExportableNetwork(small_model)(image)
    for name, output, truth in zip(OUTPUT_NAMES, small_program.module()(image), expected, strict=True):
        torch.testing.assert_close(output, truth, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 128), (128, 9000)])
def test_program_refuses_other_sizes(small_program, size):
    with pytest.raises(AssertionError, match=r"image.*(65|8192)"):
        small_program.module()(torch.zeros(3, *size, dtype=torch.uint8))
