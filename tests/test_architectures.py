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


@pytest.mark.parametrize("content", ["", "- a list", "MODEL: 3", "MODEL: [1]"])
def test_files_without_keys_are_refused(content, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"config.yaml .* is not valid: the file and its MODEL have to hold keys"):
        load_config(path)


@pytest.mark.parametrize("name", ["null", "[a, b]", "3"])
def test_names_that_are_no_words_are_refused(name, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"MODEL:\n  META_ARCHITECTURE: {name}\n")
    with pytest.raises(ValueError, match="META_ARCHITECTURE is .*, which this project does not have"):
        load_config(path)


def test_mask_wise_merging_is_added_once():
    """Keys of a second model leave what the config has already."""
    cfg = get_cfg()
    ARCHITECTURES["PSFDetrPanoptic"].add_config(cfg)
    cfg.MODEL.MASK_WISE_MERGING.SCORE_THRESHOLD = 0.1
    ARCHITECTURES["PSFMaskFormer"].add_config(cfg)
    assert cfg.MODEL.MASK_WISE_MERGING.SCORE_THRESHOLD == 0.1


def test_empty_name_is_no_upstream_name():
    with pytest.raises(ValueError, match="set it to one of PanopticSegFormer"):
        find_architecture("")
