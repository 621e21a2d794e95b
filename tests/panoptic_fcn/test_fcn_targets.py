"""Targets of levels against masks and boxes that can be counted by hand or by loops."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch.nn import functional as F

from panoptic_fcn.heat_maps import HeatMapOptions, draw_heat_map
from panoptic_fcn.targets import Canvas, TargetOptions, no_segments, picture_targets

CANVAS = Canvas((64, 96), [(8, 12), (4, 6)])
OPTIONS = TargetOptions(
    instance_scales=[(1, 20), (16, 200)],
    center_type="mass",
    heat_maps=HeatMapOptions(min_overlap=0.7, sigmas_per_diameter=3),
    num_things=3,
    num_stuff=4,
    with_things_as_stuff=True,
)
SIZE = (58, 90)  # of the picture: smaller than the canvas, and no multiple of 4


def rectangles(*boxes, size=SIZE) -> torch.Tensor:
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def example(things=(), stuff=(), size=SIZE):
    """Things and stuff are (class, box) pairs; things lie on stuff."""
    thing_masks = rectangles(*(box for _, box in things), size=size)
    stuff_masks = rectangles(*(box for _, box in stuff), size=size) & ~thing_masks.any(0)
    return tuple(
        Instances(
            size,
            gt_classes=torch.tensor([label for label, _ in segments], dtype=torch.int64),
            gt_masks=BitMasks(masks),
            gt_boxes=Boxes(torch.tensor([box for _, box in segments], dtype=torch.float32).reshape(-1, 4)),
        )
        for segments, masks in ((things, thing_masks), (stuff, stuff_masks))
    )


def targets_of(things=(), stuff=(), size=SIZE, options=OPTIONS):
    return picture_targets(*example(things, stuff, size), CANVAS, options, torch.device("cpu"))


def test_things_are_on_every_level_whose_range_has_them():
    # sqrt(area) 16 and 20 lie in both ranges, whose ends count; 12 in the first, 40 in the second.
    sides = [12, 16, 20, 40]
    found = targets_of([(0, (4, 4, 4 + side, 4 + side)) for side in sides])
    assert [level.things.tolist() for level in found.levels] == [[0, 1, 2], [1, 2, 3]]


def test_masks_are_soft_quarters_at_the_top_left():
    things, stuff = example([(1, (10, 7, 31, 30))], [(2, (0, 0, 90, 58))])
    found = picture_targets(things, stuff, CANVAS, OPTIONS, torch.device("cpu"))
    # Python rounds halves to even: 58 / 4 = 14.5 and 90 / 4 = 22.5 become 14 and 22.
    quarter = F.interpolate(things.gt_masks.tensor[None].float(), (14, 22), mode="bilinear", align_corners=False)[0]
    assert found.thing_masks.shape == (1, 16, 24)
    assert torch.equal(found.thing_masks[:, :14, :22], quarter)
    assert found.thing_masks.sum() == quarter.sum()
    assert ((quarter > 0) & (quarter < 1)).any()


@pytest.mark.parametrize("center_type", ["mass", "box"])
def test_heat_map_has_the_things_at_their_centres(center_type):
    box = (8, 16, 40, 48)
    options = dataclasses.replace(OPTIONS, center_type=center_type)
    level = targets_of([(2, box)], options=options, size=CANVAS.size).levels[1]
    # A rectangle's cells are 2..9 by 4..11 at a quarter, their mean is (5.5, 7.5); its middle is (6, 8). Level 1 has a
    # quarter of that again.
    center = {"mass": (5.5 / 4, 7.5 / 4), "box": (6 / 4, 8 / 4)}[center_type]
    expected = draw_heat_map(
        torch.tensor([2]), torch.tensor([center]), torch.tensor([[2.0, 2.0]]), (3, 4, 6), OPTIONS.heat_maps
    )
    assert torch.equal(level.heat_map, expected)


def test_regions_are_the_cells_where_the_resized_mask_is_not_small():
    found = targets_of([(0, (8, 16, 40, 48))])
    for level, size in zip(found.levels[1:], CANVAS.levels[1:], strict=True):
        resized = F.interpolate(found.thing_masks[None], size, mode="bilinear", align_corners=False)[0]
        assert torch.equal(level.thing_regions, resized[level.things] > 0.1)
        assert level.thing_regions.any()


def test_stuff_has_soft_score_maps_from_one_half_on_and_things_are_its_first_class():
    found = targets_of([(0, (8, 8, 50, 40))], [(0, (0, 0, 45, 58)), (2, (45, 0, 90, 58))])
    assert found.stuff_classes.tolist() == [0, 1, 3]
    for level, size in zip(found.levels, CANVAS.levels, strict=True):
        resized = F.interpolate(found.stuff_masks[None], size, mode="bilinear", align_corners=False)[0]
        expected = torch.zeros(4, *size)
        for row, label in enumerate(found.stuff_classes.tolist()):
            expected[label] = torch.where(resized[row] >= 0.5, resized[row], 0)
        assert torch.equal(level.score_map, expected)
        assert torch.equal(level.stuff_regions, expected[found.stuff_classes[level.stuff]] > 0)
        assert ((level.score_map > 0) & (level.score_map < 1)).any()


def test_stuff_too_small_for_a_level_is_not_on_it():
    found = targets_of(stuff=[(0, (0, 0, 90, 50)), (1, (0, 50, 8, 58))])
    assert [level.stuff.tolist() for level in found.levels] == [[0, 1], [0]]


def test_things_need_not_be_a_stuff_class():
    options = dataclasses.replace(OPTIONS, with_things_as_stuff=False)
    found = targets_of([(0, (8, 8, 50, 40))], [(0, (0, 0, 90, 58))], options=options)
    assert found.stuff_classes.tolist() == [1]
    assert all(level.score_map[0].count_nonzero() == 0 for level in found.levels)


def test_thing_that_vanishes_when_resized_is_left_out():
    # Quarters of 64 x 96 sample rows and columns 1 and 2 of every four.
    found = targets_of([(0, (8, 8, 9, 9)), (1, (8, 8, 24, 24))], size=CANVAS.size)
    assert found.thing_classes.tolist() == [1]
    assert all(level.heat_map[0].count_nonzero() == 0 for level in found.levels)


def test_more_than_100_things_are_all_kept():
    boxes = [(4 * i % 80, 4 * (i // 20), 4 * i % 80 + 8, 4 * (i // 20) + 8) for i in range(150)]
    found = targets_of([(i % 3, box) for i, box in enumerate(boxes)])
    assert len(found.levels[0].things) == 150


@pytest.mark.parametrize("size", [SIZE, (1, 1), (64, 96)])
def test_picture_without_segments_has_empty_targets(size):
    nothing = no_segments(size)
    found = picture_targets(nothing, nothing, CANVAS, OPTIONS, torch.device("cpu"))
    assert found.thing_masks.shape == found.stuff_masks.shape == (0, 16, 24)
    for level, shape in zip(found.levels, CANVAS.levels, strict=True):
        assert level.thing_regions.shape == level.stuff_regions.shape == (0, *shape)
        assert level.heat_map.shape == (3, *shape)
        assert level.score_map.shape == (4, *shape)
        assert not level.heat_map.any()
        assert not level.score_map.any()
