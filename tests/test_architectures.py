"""The names of the models, and configs that ask for one of them."""

from __future__ import annotations

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from panoptic_segformer import load_config
from panoptic_segformer.architectures import ARCHITECTURES, find_architecture


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_is_registered_under_its_name(name):
    ARCHITECTURES[name].add_config(get_cfg())
    assert META_ARCH_REGISTRY.get(name).__name__ == name


def test_all_keys_fit_into_one_config():
    cfg = get_cfg()
    for architecture in ARCHITECTURES.values():
        architecture.add_config(cfg)
    assert cfg.MODEL.PANOPTIC_SEGFORMER.EMBED_DIM == 256
    assert cfg.MODEL.SEM_SEG_HEAD.NAME == get_cfg().MODEL.SEM_SEG_HEAD.NAME


@pytest.mark.parametrize(
    ("name", "remedy"), [("MaskFormer", "'PSFMaskFormer', which is ours"), ("Mask2Former", "one of")]
)
def test_other_names_are_explained(name, remedy, tmp_path):
    path = tmp_path / "upstream.yaml"
    path.write_text(f"MODEL:\n  META_ARCHITECTURE: {name}\n")
    with pytest.raises(ValueError, match=f"META_ARCHITECTURE is '{name}'.*{remedy}"):
        load_config(path)


def test_overrides_choose_the_architecture(tmp_path):
    path = tmp_path / "upstream.yaml"
    path.write_text("MODEL:\n  META_ARCHITECTURE: MaskFormer\n")
    cfg = load_config(path, ["MODEL.META_ARCHITECTURE", "PSFMaskFormer"])
    assert "MASK_FORMER" in cfg.MODEL
    assert "PANOPTIC_SEGFORMER" not in cfg.MODEL


def test_empty_name_is_no_upstream_name():
    with pytest.raises(ValueError, match="set it to one of PanopticSegFormer"):
        find_architecture("")
