"""Checkpoints in the form of Detectron2's model zoo load whole, and give Detectron2's results."""

from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import PanopticFPN

from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_segformer.class_numbers import with_class_numbers
from rectangles import make_example


@pytest.fixture(scope="module")
def original(small_config):
    """Detectron2's model, with more to see in its random masks."""
    torch.manual_seed(3)
    cfg = with_class_numbers(small_config(), {"MODEL.ROI_HEADS.NUM_CLASSES": 6, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 7})
    model = PanopticFPN(cfg).eval()
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=3.0)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=1.0)
    return model


@pytest.fixture(scope="module")
def loaded(original, small_config, tmp_path_factory):
    """Our model with the weights of the original, by way of a file of the zoo's form."""
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    # Files of the zoo have these, which today's Detectron2 does not save.
    tensors["pixel_mean"] = original.pixel_mean.numpy()
    tensors["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4).numpy()
    path.write_bytes(pickle.dumps({"model": tensors, "__author__": "Detectron2 Model Zoo"}))
    model = build_model(small_config()).eval()
    PanopticCheckpointer(model).load(str(path))
    return model


def test_every_tensor_is_loaded(original, loaded):
    expected, actual = original.state_dict(), loaded.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@torch.no_grad()
def test_results_are_detectron2s(original, loaded):
    pictures = [{"image": make_example((96, 128), seed=seed)["image"], "height": 75, "width": 110} for seed in range(2)]
    for theirs, ours in zip(original(pictures), loaded(pictures), strict=True):
        assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
        assert torch.equal(ours["instances"].pred_masks, theirs["instances"].pred_masks)
        assert torch.equal(ours["instances"].pred_boxes.tensor, theirs["instances"].pred_boxes.tensor)
        (ids, segments), (their_ids, their_segments) = ours["panoptic_seg"], theirs["panoptic_seg"]
        assert torch.equal(ids, their_ids)
        assert ids.dtype == torch.int32
        for own, their in zip(segments, their_segments, strict=True):
            # Ids of the scenes: things 0 to 5, stuff 6 to 11; Detectron2's stuff starts at 1.
            assert own["category_id"] == their["category_id"] + (0 if own["isthing"] else 5)
            assert (own["id"], own["isthing"]) == (their["id"], their["isthing"])
            assert own["area"] == int((ids == own["id"]).sum())
        assert {segment["isthing"] for segment in segments} == {True, False}


def test_weights_of_another_model_are_refused(small_model):
    with pytest.raises(ValueError, match="only 0 of the checkpoint's 2 tensors fit"):
        small_model.load_state_dict({"query.weight": torch.zeros(2), "mask.weight": torch.zeros(2)}, strict=False)
