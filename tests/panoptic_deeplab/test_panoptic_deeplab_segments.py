"""Segments: of hand-made predictions, at any size, and those of Detectron2's model."""

from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab import PanopticDeepLab

from panoptic_deeplab.channels import Channels
from panoptic_deeplab.meta_arch import Predictions
from panoptic_deeplab.segments import GroupingOptions, instance_result, panoptic_result
from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_segformer.class_numbers import with_class_numbers
from panoptic_segformer.data.categories import Categories
from rectangles import make_example

OPTIONS = GroupingOptions(center_threshold=0.1, nms_kernel=3, num_centers=200, stuff_area=20)
FIELDS = {"id", "category_id", "isthing", "score", "area"}


@pytest.mark.parametrize(
    ("dataset", "stuff_id"), [("coco_2017_val_panoptic", 80), ("coco_2017_val_panoptic_separated", 1)]
)
def test_pixels_are_grouped_around_centres(dataset, stuff_id):
    channels = Channels.of(Categories.from_metadata(MetadataCatalog.get(dataset)))
    # Columns 0 to 9: two things of class 7, rows apart; 10 to 28: stuff; 29: too little stuff.
    semantic = torch.zeros(133, 20, 30)
    semantic[7, :, :10], semantic[80, :, 10:29], semantic[81, :, 29:] = 6, 6, 6
    semantic[81, 19, 29] = -6  # 19 pixels
    semantic[80, 19, 29] = 6
    centers = torch.zeros(1, 20, 30)
    centers[0, 4, 4], centers[0, 14, 4] = 0.9, 0.5
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    offsets = torch.stack([torch.where(rows < 10, 4.0, 14.0) - rows, 4 - columns])
    ids, segments = panoptic_result(semantic, centers, offsets, channels, OPTIONS)
    expected = torch.zeros(20, 30, dtype=torch.int32)
    expected[:10, :10], expected[10:, :10], expected[:, 10:29], expected[19, 29] = 1, 2, 3, 3
    assert torch.equal(ids, expected)
    probability = (torch.tensor(6.0).exp() / (torch.tensor(6.0).exp() + 132)).item()
    # The centre of mass (4.5, 4.5) lies in the pixel of the centre.
    for segment, (category, isthing, score, area) in zip(
        segments,
        [(7, True, 0.9 * probability, 100), (7, True, 0.5 * probability, 100), (stuff_id, False, probability, 381)],
        strict=True,
    ):
        assert (segment["category_id"], segment["isthing"], segment["area"]) == (category, isthing, area)
        assert segment["score"] == pytest.approx(score, rel=1e-4)
    instances = instance_result(ids, segments)
    assert instances.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [0, 10, 10, 20]]
    assert instances.pred_classes.tolist() == [7, 7]
    assert torch.equal(instances.pred_masks, torch.stack([expected == 1, expected == 2]))


def test_things_without_centres_are_void():
    channels = Channels(things=(0,), stuff=(1,), category_ids=(0, 1))
    semantic = torch.stack([torch.ones(5, 6), torch.zeros(5, 6)])
    ids, segments = panoptic_result(semantic, torch.zeros(1, 5, 6), torch.zeros(2, 5, 6), channels, OPTIONS)
    assert not ids.any()
    assert segments == []
    assert len(instance_result(ids, segments)) == 0


@pytest.mark.parametrize("is_column", [False, True])
@pytest.mark.parametrize(("things", "stuff"), [((0, 1), (2,)), ((1, 2), (0,))])
def test_a_row_is_grouped_as_a_map_is(things, stuff, is_column):
    """A thing of the last thing class, and stuff; nobody else is there, to outvote the thing or join the stuff."""
    channels = Channels(things, stuff, category_ids=(0, 1, 2))
    semantic = torch.zeros(3, 1, 50)
    semantic[things[1], :, :10], semantic[stuff[0], :, 10:] = 1, 1
    centers = torch.zeros(1, 1, 50)
    centers[0, 0, 5] = 1
    maps = [semantic, centers, torch.zeros(2, 1, 50)]
    if is_column:
        maps = [values.mT for values in maps]
    ids, segments = panoptic_result(*maps, channels, GroupingOptions(0.1, 3, 200, stuff_area=41))
    assert ids.flatten().count_nonzero() == ids.flatten()[:10].count_nonzero() == 10  # too little stuff
    assert [(segment["category_id"], segment["area"]) for segment in segments] == [(things[1], 10)]
    ids, segments = panoptic_result(*maps, channels, OPTIONS)
    assert sorted((segment["category_id"], segment["area"]) for segment in segments) == sorted(
        [(things[1], 10), (stuff[0], 40)]
    )


def test_more_than_a_thousand_things_of_a_class_are_told_apart():
    channels = Channels(things=(0,), stuff=(1,), category_ids=(0, 1))
    rows, columns = torch.meshgrid(torch.arange(66), torch.arange(66), indexing="ij")
    # A thing on each square of 2 x 2 pixels, its centre at the top left.
    offsets = -torch.stack([rows % 2, columns % 2]).float()
    centers = ((rows % 2 == 0) & (columns % 2 == 0))[None].float()
    semantic = torch.stack([torch.ones(66, 66), torch.zeros(66, 66)])
    options = GroupingOptions(center_threshold=0.1, nms_kernel=1, num_centers=4000, stuff_area=1)
    ids, segments = panoptic_result(semantic, centers, offsets, channels, options)
    assert len(segments) == 33 * 33
    assert all(segment["isthing"] and segment["area"] == 4 for segment in segments)
    assert torch.equal(ids[::2, ::2], ids[1::2, 1::2])


@torch.no_grad()
def test_half_precision_is_left_before_anything_is_resized(small_model):
    """Offsets of hundreds of pixels would be rounded once more."""
    torch.manual_seed(0)
    full = Predictions(torch.randn(1, 12, 24, 32), torch.rand(1, 1, 24, 32), 100 * torch.randn(1, 2, 24, 32))
    half = Predictions(*(maps.bfloat16() for maps in (full.semantic, full.centers, full.offsets)))
    full = Predictions(*(maps.float() for maps in (half.semantic, half.centers, half.offsets)))
    actual, expected = (
        small_model.picture_results(outputs, 0, (24, 32), (20, 30), (70, 90)) for outputs in (half, full)
    )
    assert torch.equal(actual["sem_seg"], expected["sem_seg"])
    assert torch.equal(actual["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert actual["panoptic_seg"][1] == expected["panoptic_seg"][1]
    assert len(actual["panoptic_seg"][1]) > 5


def check_result(result, size, categories):
    ids, segments = result["panoptic_seg"]
    assert tuple(ids.shape) == size
    assert ids.dtype == torch.int32
    assert sorted({0, *ids.unique().tolist()}) == list(range(len(segments) + 1))
    for segment in segments:
        assert segment.keys() == FIELDS
        assert segment["area"] == int((ids == segment["id"]).sum()) > 0
        assert isinstance(segment["score"], float)
        assert segment["category_id"] in (categories.thing_ids if segment["isthing"] else categories.stuff_ids)
    assert tuple(result["sem_seg"].shape) == (categories.num_things + categories.num_stuff, *size)
    assert len(result["instances"]) == sum(segment["isthing"] for segment in segments)


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 128), (70, 150), (9, 7), (1, 1), (1, 40)])
def test_results_are_complete_at_any_size(small_model, size):
    picture = {"image": make_example((96, 128))["image"], "height": size[0], "width": size[1]}
    (result,) = small_model.eval()([picture])
    check_result(result, size, small_model.categories)


@torch.no_grad()
@pytest.mark.parametrize("size", [(9, 7), (1, 1), (1, 200), (33, 65)])
def test_pictures_of_any_size_have_results(small_model, size):
    (result,) = small_model.eval()([{"image": make_example(size)["image"]}])
    check_result(result, size, small_model.categories)


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 128), (70, 150)])
def test_batch_of_two_is_two_single_pictures(small_model, size):
    pictures = [
        {"image": make_example((96, 128), seed=seed)["image"], "height": size[0], "width": size[1]} for seed in range(2)
    ]
    for together, picture in zip(small_model.eval()(pictures), pictures, strict=True):
        (alone,) = small_model([picture])
        assert together["panoptic_seg"][1]
        # Sums run in another order, so that a pixel on a border may turn.
        differing = together["panoptic_seg"][0] != alone["panoptic_seg"][0]
        assert differing.float().mean() < 1e-3
        for one, other in zip(together["panoptic_seg"][1], alone["panoptic_seg"][1], strict=True):
            assert one["category_id"] == other["category_id"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)


@torch.no_grad()
def test_weights_load_whole_and_results_are_detectron2s(small_model, small_config, tmp_path):
    overrides = ["MODEL.PANOPTIC_DEEPLAB.SCALE_OFFSETS", "False"]
    cfg = with_class_numbers(small_config(*overrides), {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 12})
    original = PanopticDeepLab(cfg).eval()
    original.load_state_dict(small_model.state_dict())
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": tensors, "__author__": "Detectron2 Model Zoo"}))
    model = build_model(cfg).eval()
    PanopticCheckpointer(model).load(str(path))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in original.state_dict().items())

    picture = {"image": make_example((96, 128))["image"], "height": 75, "width": 110}
    (theirs,), (ours,) = original([picture]), model([picture])
    assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
    labels = theirs["panoptic_seg"][0]
    ids, segments = ours["panoptic_seg"]
    assert {segment["isthing"] for segment in segments} == {True, False}
    assert torch.equal(ids == 0, labels == -1)
    for segment in segments:
        (label,) = labels[ids == segment["id"]].unique().tolist()
        assert torch.equal(labels == label, ids == segment["id"])
        # In the scenes ids are channels.
        assert segment["category_id"] == label // 1000
    for name in ("pred_classes", "pred_masks"):
        assert torch.equal(ours["instances"].get(name), theirs["instances"].get(name))
    assert torch.equal(ours["instances"].pred_boxes.tensor, theirs["instances"].pred_boxes.tensor)
    assert torch.allclose(ours["instances"].scores, theirs["instances"].scores, atol=1e-4)


@torch.no_grad()
def test_offsets_are_scaled_to_the_result(small_model):
    picture = {"image": make_example((96, 128))["image"], "height": 48, "width": 256}
    seen = []

    def spy(semantic, centers, offsets, *rest):
        seen.append(offsets)
        return panoptic_result(semantic, centers, offsets, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("panoptic_deeplab.meta_arch.panoptic_result", spy)
        for small_model.scale_offsets in (False, True):
            small_model.eval()([picture])
    plain, scaled = seen
    assert torch.allclose(scaled, plain * torch.tensor([0.5, 2.0]).view(2, 1, 1))
