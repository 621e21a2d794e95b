"""Bare backbones: files of timm, and of the authors of PVTv2 and Swin."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from golden import CASES, Golden
from panoptic_segformer.checkpoint.convert import convert_released
from panoptic_segformer.modeling.backbone import TimmBackbone

STRIDES = [8, 16, 32]
NAMES = {"small_pvt": "pvt_v2_b0", "small_swin": "swin_tiny_patch4_window7_224"}


def author_file(golden, path, classes: int):
    """Save the golden backbone as its authors save their classifiers, with what detectors have no use for."""
    prefix = "backbone."
    tensors = {n.removeprefix(prefix): t for n, t in golden.state_dict.items() if n.startswith(prefix)}
    if golden.case == "small_swin":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("norm")}
        tensors["norm.weight"] = torch.ones(192)
        tensors["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
        tensors["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    tensors["head.weight"] = torch.zeros(classes, 1)
    torch.save({"model": tensors} if golden.case == "small_swin" else tensors, path)
    return path


@pytest.mark.parametrize("classes", [1000, 21841])
@pytest.mark.parametrize("case", NAMES)
def test_classifiers_of_the_authors_load(shared_dir, tmp_path, case, classes):
    golden = Golden(shared_dir / "golden", case)
    path = author_file(golden, tmp_path / "classifier.pth", classes)
    backbone = TimmBackbone(NAMES[case], STRIDES, weights=str(path), options=CASES[case][2])
    expected = convert_released(golden.state_dict)
    found = backbone.model.state_dict()
    assert found
    assert all(torch.equal(tensor, expected[f"backbone.model.{name}"]) for name, tensor in found.items())


def test_classifier_of_pvt_gives_the_released_features(shared_dir, tmp_path):
    golden = Golden(shared_dir / "golden", "small_pvt")
    path = author_file(golden, tmp_path / "classifier.pth", 1000)
    backbone = TimmBackbone("pvt_v2_b0", STRIDES, weights=str(path)).eval()
    with torch.no_grad():
        features = backbone(golden["evalodd/in.img_norm"])
    for index, feature in enumerate(features.values()):
        assert torch.allclose(feature, golden[f"evalodd/bb.{index}"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["pvt_v2_b0", "convnext_atto", "resnet18", "swin_tiny_patch4_window7_224"])
def test_files_of_timm_load(tmp_path, name, suffix):
    classifier = timm.create_model(name)
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": classifier.state_dict()}, path)
    else:
        save_file(classifier.state_dict(), path)
    backbone = TimmBackbone(name, STRIDES, weights=str(path), freeze_batch_norm=False)
    expected = classifier.state_dict()
    for key, tensor in backbone.model.state_dict().items():
        stage, _, rest = key.partition(".")
        family, _, number = stage.rpartition("_")
        name = f"{family}.{number}.{rest}" if number.isdigit() else key
        assert torch.equal(tensor, expected[name]), key


def test_file_without_counters_of_batch_norm_loads(tmp_path):
    """As torchvision's first ones."""
    tensors = timm.create_model("resnet18").state_dict()
    torch.save({n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}, tmp_path / "old.pth")
    backbone = TimmBackbone("resnet18", STRIDES, weights=str(tmp_path / "old.pth"))
    assert torch.equal(backbone.model.conv1.weight, tensors["conv1.weight"])


def test_other_window_is_refused(tmp_path):
    torch.save(timm.create_model("swin_tiny_patch4_window7_224").state_dict(), tmp_path / "window7.pth")
    with pytest.raises(ValueError, match="12 have another shape .*relative_position_bias_table"):
        TimmBackbone(
            "swin_tiny_patch4_window7_224",
            STRIDES,
            weights=str(tmp_path / "window7.pth"),
            options={"window_size": 12},
        )


def test_broken_safetensors_are_named(tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not a header")
    with pytest.raises(ValueError, match=r"broken\.safetensors \(20 bytes\) can't be read.*get the file again"):
        TimmBackbone("resnet18", STRIDES, weights=str(path))
