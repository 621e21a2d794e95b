"""Every key of the released checkpoints finds its place."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from golden import NARROW_R50, parse_key
from panoptic_segformer import load_config
from panoptic_segformer.checkpoint.convert import convert_released, is_released
from tiny import words

OLD_NAMES = (
    (".things_mask_head.", ".mask_head."),
    (".stuff_mask_head.", ".mask_head2."),
    (".cls_thing_branches.", ".cls_branches2."),
)


def released_keys(shared_dir, name: str) -> dict[str, torch.Tensor]:
    lines = (shared_dir / f"keys/official_{name}.txt").read_text().splitlines()
    keys = [parse_key(line) for line in lines if line.strip()]
    return {key: torch.empty(shape, device="meta") for key, shape in keys}


# Key set, config under configs/coco/panoptic_segformer_*.yaml, overrides.
KEY_SETS = [
    ("r50", "r50_2x", {}),
    ("r50w16", "r50_2x", NARROW_R50),
    ("r101", "r101_2x", {}),
    ("pvtb0", "pvtv2_b5_2x", {"MODEL.TIMM.NAME": "pvt_v2_b0"}),
    ("pvtb2", "pvtv2_b5_2x", {"MODEL.TIMM.NAME": "pvt_v2_b2"}),
    ("pvtb5", "pvtv2_b5_2x", {}),
    ("swint", "swin_l_2x", {"MODEL.TIMM.NAME": "swin_tiny_patch4_window7_224"}),
    ("swinl", "swin_l_2x", {}),
]


@pytest.mark.parametrize(("name", "config", "overrides"), KEY_SETS, ids=[key_set[0] for key_set in KEY_SETS])
def test_all_keys_convert_and_fill_the_model(shared_dir, config_dir, name, config, overrides):
    released = released_keys(shared_dir, name)
    assert is_released(released)
    # Weights of the whole model are named, so those of the backbone are not fetched.
    opts = [*words(overrides), "MODEL.DEVICE", "meta", "MODEL.WEIGHTS", f"psf://{name}"]
    with torch.device("meta"):
        model = build_model(load_config(config_dir / f"coco/panoptic_segformer_{config}.yaml", opts))
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    converted = {key: tuple(tensor.shape) for key, tensor in convert_released(released).items()}
    assert converted == own


def test_every_key_set_is_tested(shared_dir):
    names = {path.stem.removeprefix("official_") for path in (shared_dir / "keys").glob("official_*.txt")}
    assert names == {name for name, _, _ in KEY_SETS}


@pytest.mark.parametrize("name", ["r50", "pvtb5", "swinl"])
def test_older_names_of_published_files_convert_alike(shared_dir, name):
    released = released_keys(shared_dir, name)
    renamed = {}
    for key, tensor in released.items():
        for new, old in OLD_NAMES:
            key = key.replace(new, old)
        renamed[f"module.{key}"] = tensor
    assert set(renamed).isdisjoint(released)
    assert set(convert_released(renamed)) == set(convert_released(released))


def test_other_models_are_not_taken_for_released_ones():
    assert not is_released({"backbone.conv1.weight": 0, "bbox_head.cls_branches.0.weight": 0})
