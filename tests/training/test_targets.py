"""Truth of a picture in the form of matching and losses."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_segformer.modeling.location_decoder import Location
from panoptic_segformer.training.targets import PictureTargets

LIKE = torch.zeros(1)
HEIGHT, WIDTH = 8, 10


@pytest.fixture
def example() -> tuple[Instances, Instances]:
    """An L of three pixels with a box that is not its mask's, and stuff in the lower half."""
    things, stuff = Instances((HEIGHT, WIDTH)), Instances((HEIGHT, WIDTH))
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 2, 4] = mask[0, 3, 4] = mask[0, 3, 5] = True
    things.gt_classes, things.gt_masks = torch.tensor([1]), BitMasks(mask)
    things.gt_boxes = Boxes(torch.tensor([[4.0, 2.0, 8.0, 4.0]]))
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 4:] = True
    stuff.gt_classes, stuff.gt_masks = torch.tensor([2]), BitMasks(mask)
    return things, stuff


@pytest.mark.parametrize("location", [Location.BOX, Location.CENTER_SCALE])
def test_locations_are_boxes_in_units_of_the_picture(example, location):
    targets = PictureTargets.from_instances(*example, LIKE, location, with_stuff_locations=True)
    assert targets.things.locations.tolist() == [pytest.approx([0.6, 0.375, 0.4, 0.25])]
    assert targets.stuff.locations.tolist() == [pytest.approx([0.5, 0.75, 1.0, 0.5])]


def test_center_is_the_mean_of_the_pixels(example):
    targets = PictureTargets.from_instances(*example, LIKE, Location.CENTER, with_stuff_locations=True)
    x, y = (4.5 + 4.5 + 5.5) / 3 / WIDTH, (2.5 + 3.5 + 3.5) / 3 / HEIGHT
    assert targets.things.locations.tolist() == [pytest.approx([x, y])]
    assert targets.stuff.locations.tolist() == [pytest.approx([0.5, 0.75])]


@pytest.mark.parametrize("location", list(Location))
def test_picture_without_segments_has_empty_locations(example, location):
    empty = [instances[:0] for instances in example]
    targets = PictureTargets.from_instances(*empty, LIKE, location, with_stuff_locations=True).joined(5)
    assert targets.locations.shape == (0, location.num_coordinates)
    assert targets.masks.shape == (0, HEIGHT, WIDTH)


def test_joined_targets_count_stuff_behind_things(example):
    targets = PictureTargets.from_instances(*example, LIKE, with_stuff_locations=True)
    joined = targets.joined(5)
    assert joined.classes.tolist() == [1, 7]
    assert torch.equal(joined.masks[1], targets.stuff.masks[0])
    assert torch.equal(joined.locations, torch.cat([targets.things.locations, targets.stuff.locations]))


def test_stuff_is_located_only_where_that_is_learned(example):
    assert PictureTargets.from_instances(*example, LIKE).stuff.locations is None
