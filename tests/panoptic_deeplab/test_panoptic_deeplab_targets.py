"""Channels of both forms of metadata, and targets of rectangles, of scenes, and of nothing."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from panopticapi.utils import rgb2id

from panoptic_deeplab.channels import Channels
from panoptic_deeplab.targets import TargetMaker
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.datasets import configured_categories
from panoptic_segformer.data.mapper import PanopticDatasetMapper
from rectangles import make_example


def channels_of(dataset: str) -> Channels:
    return Channels.of(Categories.from_metadata(MetadataCatalog.get(dataset)))


@pytest.mark.parametrize(
    ("dataset", "things", "stuff"),
    [
        ("coco_2017_val_panoptic", range(80), range(80, 133)),
        ("coco_2017_val_panoptic_separated", range(80), range(80, 133)),
        ("cityscapes_fine_panoptic_val", range(11, 19), range(11)),
    ],
)
def test_channels(dataset, things, stuff):
    channels = channels_of(dataset)
    assert channels.things == tuple(things)
    assert channels.stuff == tuple(stuff)
    assert len(channels) == len(things) + len(stuff)
    categories = Categories.from_metadata(MetadataCatalog.get(dataset))
    assert tuple(channels.category_ids[channel] for channel in channels.things) == categories.thing_ids
    assert tuple(channels.category_ids[channel] for channel in channels.stuff) == categories.stuff_ids


def test_logits_by_category():
    logits = torch.randn(133, 2, 3)
    assert torch.equal(channels_of("coco_2017_val_panoptic").by_category(logits), logits)
    separated = channels_of("coco_2017_val_panoptic_separated").by_category(logits)
    assert torch.equal(separated[0], logits[:80].amax(0))
    assert torch.equal(separated[1:], logits[80:])


def test_logits_by_category_without_thing_classes():
    """In the separated form id 0 is still that of all things."""
    logits = torch.randn(3, 2, 3)
    separated = Channels(things=(), stuff=(0, 1, 2), category_ids=(1, 2, 3)).by_category(logits)
    assert torch.equal(separated[1:], logits)
    assert (separated.argmax(0) > 0).all()
    assert Channels(things=(), stuff=(0, 1, 2), category_ids=(0, 1, 2)).by_category(logits) is logits


def make_targets(*examples, size=(20, 30), **options):
    channels = Channels(things=(2, 3), stuff=(0, 1), category_ids=(0, 1, 2, 3))
    generator = PanopticDeepLabTargetGenerator(255, channels.things, sigma=2, **options)
    return TargetMaker(channels, generator)(examples, size)


def test_targets_of_rectangles():
    # Rows 4 to 8, columns 10 to 18: the centre is (6, 14).
    example = make_example((16, 24), [(1, 4, 10, 9, 19)], [(0, 0, 0, 4, 24)])
    targets = make_targets(example, ignore_stuff_in_offset=True, small_instance_area=100, small_instance_weight=3)
    classes = torch.full((20, 30), 255)
    classes[4:9, 10:19], classes[:4, :24] = 3, 0
    assert torch.equal(targets["sem_seg"][0], classes)
    rows, columns = torch.arange(20.0)[:, None], torch.arange(30.0)[None]
    heat = torch.exp(-((rows - 6) ** 2 + (columns - 14) ** 2) / (2 * 2**2))
    center = targets["center"][0, 0]
    near = ((rows - 6).abs() <= 6) & ((columns - 14).abs() <= 6)
    assert torch.allclose(center[near], heat[near])
    assert (center[:16, 23:] <= 1e-4).all()
    thing = classes == 3
    expected = torch.stack([6 - rows.expand(20, 30), 14 - columns.expand(20, 30)]) * thing
    assert torch.equal(targets["offset"][0], expected)
    assert torch.equal(targets["offset_weights"][0, 0].bool(), thing)
    assert torch.equal(targets["center_weights"][0, 0].bool(), classes != 255)
    assert torch.equal(targets["sem_seg_weights"][0][:16, :24], 1.0 + 2 * thing[:16, :24])


def test_targets_of_a_batch_of_nothing_and_of_something():
    targets = make_targets(make_example((16, 24)), make_example((20, 30), [(0, 0, 0, 20, 30)]))
    assert (targets["sem_seg"][0] == 255).all()
    assert (targets["sem_seg"][1] == 2).all()
    for key in ("center", "offset", "center_weights", "offset_weights"):
        assert not targets[key][0].any()
        assert targets[key][1].any()


def test_targets_of_scenes_are_those_of_detectron2s_mapper(small_config):
    """Detectron2 makes them of the file; ours went through the mapper's masks."""
    cfg = small_config("INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", "(96,)")
    channels = Channels.of(configured_categories(cfg))
    maker = TargetMaker.from_config(cfg, channels)
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    for entry in DatasetCatalog.get("synthetic_train"):
        ids = rgb2id(read_image(entry["pan_seg_file_name"], "RGB"))
        segments = [{"iscrowd": 0, **segment} for segment in entry["segments_info"]]
        assert not any(segment["iscrowd"] for segment in segments)
        expected = maker.generator(ids, segments)
        actual = maker([mapper(entry)], ids.shape)
        assert len(expected.pop("center_points")) > 0
        for key, target in expected.items():
            assert torch.equal(actual[key].squeeze(), target.squeeze()), key
