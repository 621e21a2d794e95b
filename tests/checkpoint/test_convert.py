"""Every key of the released checkpoints finds its place."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from golden import parse_key
from panoptic_segformer import load_config
from panoptic_segformer.checkpoint.convert import convert_released, is_released

OLD_NAMES = (
    (".things_mask_head.", ".mask_head."),
    (".stuff_mask_head.", ".mask_head2."),
    (".cls_thing_branches.", ".cls_branches2."),
)


def released_keys(shared_dir, name: str) -> dict[str, torch.Tensor]:
    lines = (shared_dir / f"keys/official_{name}.txt").read_text().splitlines()
    keys = [parse_key(line) for line in lines if line.strip()]
    return {key: torch.empty(shape, device="meta") for key, shape in keys}


@pytest.mark.parametrize(("name", "depth"), [("r50", "50"), ("r101", "101")])
def test_all_keys_convert_and_fill_the_model(shared_dir, config_dir, name, depth):
    released = released_keys(shared_dir, name)
    assert is_released(released)
    config = config_dir / "coco/panoptic_segformer_r50_2x.yaml"
    with torch.device("meta"):
        model = build_model(load_config(config, ["MODEL.DEVICE", "meta", "MODEL.RESNETS.DEPTH", depth]))
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    converted = {key: tuple(tensor.shape) for key, tensor in convert_released(released).items()}
    assert converted == own


def test_older_names_of_published_files_convert_alike(shared_dir):
    released = released_keys(shared_dir, "r50")
    renamed = {}
    for key, tensor in released.items():
        for new, old in OLD_NAMES:
            key = key.replace(new, old)
        renamed[f"module.{key}"] = tensor
    assert set(renamed).isdisjoint(released)
    assert set(convert_released(renamed)) == set(convert_released(released))


def test_other_models_are_not_taken_for_released_ones():
    assert not is_released({"backbone.conv1.weight": 0, "bbox_head.cls_branches.0.weight": 0})
