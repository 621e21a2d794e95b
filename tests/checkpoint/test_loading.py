"""What fits is loaded and told; what does not is refused."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_segformer.checkpoint.loading import read_checkpoint

CLASS_HEADS = "location_decoder.class_heads"


@pytest.fixture
def model(tiny_config):
    return build_model(tiny_config())


def test_complete_checkpoint_loads_strictly(model):
    state_dict = {name: tensor + 1 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in state_dict}
    assert not any(model.load_state_dict(state_dict | rest))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state_dict.items())


def test_other_class_count_keeps_the_rest_and_says_so(model, caplog):
    state_dict = model.state_dict()
    for name in state_dict:
        if name.startswith(CLASS_HEADS):
            state_dict[name] = torch.zeros(7, *state_dict[name].shape[1:])
    before = model.location_decoder.class_heads[0].weight.clone()
    with caplog.at_level(logging.INFO):
        incompatible = model.load_state_dict(state_dict, strict=False)
    assert torch.equal(model.location_decoder.class_heads[0].weight, before)
    assert all(name.startswith(CLASS_HEADS) for name in incompatible.missing_keys)
    assert "4 tensors keep their initial values: location_decoder (4)" in caplog.text
    assert "4 of them have another shape" in caplog.text


def test_other_model_of_the_same_names_is_refused(tiny_config, tmp_path):
    """Detectron2's checkpointer takes tensors of another shape away before the model sees them."""
    narrow = build_model(tiny_config())
    torch.save({"model": narrow.state_dict()}, tmp_path / "narrow.pth")
    wide = build_model(tiny_config("MODEL.PANOPTIC_SEGFORMER.EMBED_DIM", "64"))
    with pytest.raises(ValueError, match="another model or config"):
        DetectionCheckpointer(wide).load(str(tmp_path / "narrow.pth"))


def test_backbone_alone_is_accepted(model, tmp_path, caplog):
    backbone = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("backbone.")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(model).load(str(tmp_path / "backbone.pth"))
    assert "tensors keep their initial values: neck" in caplog.text


@pytest.mark.parametrize("classifier", ["fc1000", "stem.fc"])
def test_backbone_may_come_with_its_classifier(model, classifier):
    """As in detectron2://ImageNetPretrained: MSRA/R-50.pkl and torchvision/R-50.pkl."""
    state_dict = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("backbone.")}
    state_dict |= {f"{classifier}.weight": torch.zeros(1000, 8), f"{classifier}.bias": torch.zeros(1000)}
    incompatible = model.load_state_dict(state_dict, strict=False)
    assert incompatible.unexpected_keys == [f"{classifier}.weight", f"{classifier}.bias"]


def test_checkpoint_of_which_under_half_fits_is_refused(model, tmp_path):
    state_dict = dict(list(model.state_dict().items())[:10])
    strangers = {f"sem_seg_head.layer{i}.weight": torch.zeros(1) for i in range(11)}
    torch.save({"model": state_dict | strangers}, tmp_path / "maskformer.pth")
    with pytest.raises(ValueError, match="only 10 of the checkpoint's 21 tensors fit.*another model.*sem_seg_head"):
        PanopticCheckpointer(model).load(str(tmp_path / "maskformer.pth"))


def test_default_predictor_refuses_another_model(tiny_config, tmp_path):
    torch.save({"model": {"a.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="only 0 of the checkpoint's 1 tensors fit"):
        DefaultPredictor(tiny_config("MODEL.WEIGHTS", str(tmp_path / "other.pth")))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pth .* can't be read"):
        read_checkpoint(path)


def test_truncated_training_checkpoint_is_named(model, tmp_path):
    checkpointer = PanopticCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    path = tmp_path / "model_final.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model_final\.pth .* can't be read"):
        checkpointer.load(str(path))


def test_released_form_without_its_address_is_explained(model, tmp_path):
    torch.save({"meta": {}, "state_dict": {}}, tmp_path / "released.pth")
    with pytest.raises(ValueError, match="give it as MODEL.WEIGHTS psf://"):
        PanopticCheckpointer(model).load(str(tmp_path / "released.pth"))
