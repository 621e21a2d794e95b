from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as rle

from panoptic_segformer.data.conversion.painting import Region, paint
from panoptic_segformer.data.segments import segmentation_mask

SIZE = (3, 4)
TRIANGLE = [0, 0, 2, 0, 2, 2]
WRONG_SEGMENTATIONS = [
    *(None, 5, [["a"]], [[1, 2]], {"counts": [1]}, {"size": [3, 4]}),
    # Two points, half a point, coordinates whose outline has no end.
    *(
        [[0, 0, 2, 2]],
        [TRIANGLE, [0, 0, 2, 2]],
        [[*TRIANGLE, 1]],
        [[float("nan"), *TRIANGLE[1:]]],
        [[1e12, *TRIANGLE[1:]]],
    ),
]
THINGS = {1: True, 2: True, 3: False, 4: False}


@st.composite
def regions(draw):
    category_id = draw(st.sampled_from(sorted(THINGS)))
    isthing = THINGS[category_id]
    return Region(draw(arrays(bool, SIZE)), category_id, isthing, isthing and draw(st.booleans()))


@settings(max_examples=60)
@given(st.lists(regions(), max_size=5))
def test_every_pixel_belongs_to_the_region_that_lies_on_top(listed):
    """Against the rule pixel by pixel: things, crowds, stuff; the smaller; the later."""
    truth = paint(listed, SIZE)
    stuff_areas = {
        c: np.logical_or.reduce([r.mask for r in listed if r.category_id == c] or [np.zeros(SIZE, bool)]).sum()
        for c in (3, 4)
    }
    first = {r.category_id: n for n, r in reversed(list(enumerate(listed))) if not r.isthing}

    def rank(number):
        region = listed[number]
        if not region.isthing:
            return 0, -stuff_areas[region.category_id], first[region.category_id]
        return 2 - region.iscrowd, -region.mask.sum(), number

    winners = {}
    for pixel in np.ndindex(*SIZE):
        here = [number for number, region in enumerate(listed) if region.mask[pixel]]
        if not here:
            assert truth.ids[pixel] == 0
            continue
        top = listed[max(here, key=rank)]
        assert truth.segments[int(truth.ids[pixel])] == (top.category_id, top.iscrowd)
        key = (max(here, key=rank),) if top.isthing else ("stuff", top.category_id)
        winners.setdefault(key, set()).add(int(truth.ids[pixel]))
    assert all(len(ids) == 1 for ids in winners.values())
    assert len({*map(tuple, winners.values())}) == len(winners)


def test_segmentations_of_all_kinds_give_one_mask():
    mask = np.zeros((10, 12), bool)
    mask[2:6, 3:9] = True
    compressed = rle.encode(np.asfortranarray(mask))
    runs = np.flatnonzero(np.diff(np.r_[0, mask.ravel(order="F"), 0]))
    counts = np.diff(np.r_[0, runs, mask.size]).tolist()
    polygon = [[3, 2, 9, 2, 9, 6, 3, 6]]
    for segmentation in (compressed, {"size": [10, 12], "counts": counts}, polygon):
        assert np.array_equal(segmentation_mask(segmentation, (10, 12)), mask)


def test_segmentation_without_polygons_is_empty():
    assert not segmentation_mask([], SIZE).any()


@pytest.mark.parametrize("segmentation", WRONG_SEGMENTATIONS)
def test_wrong_segmentation_is_refused(segmentation):
    with pytest.raises(ValueError, match="segmentation"):
        segmentation_mask(segmentation, SIZE)


@pytest.mark.parametrize(("size", "counts"), [([9, 9], [81]), ([3, 4], [4]), ([3, 4], [99]), ([3, 4], [5, -3, 10])])
def test_rle_that_does_not_fill_the_picture_is_refused(size, counts):
    with pytest.raises(ValueError, match="RLE"):
        segmentation_mask({"size": size, "counts": counts}, SIZE)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_compressed_rle_is_taken_exactly_if_it_fills_the_picture(mask, more):
    """Pixels that it says nothing of would be what was in memory before."""
    encoded = rle.encode(np.asfortranarray(mask))
    size = tuple(side + extra for side, extra in zip(mask.shape, more, strict=True))
    if size == mask.shape:
        assert np.array_equal(segmentation_mask(encoded, size), mask)
    else:
        with pytest.raises(ValueError, match="counts of"):
            segmentation_mask({**encoded, "size": list(size)}, size)


def test_many_regions_of_a_large_picture_take_the_memory_of_a_few():
    side, number = 1000, 60

    def rows():
        for row in range(number):
            mask = np.zeros((side, side), bool)
            mask[row] = True
            yield Region(mask, 1, True)

    tracemalloc.start()
    truth = paint(rows(), (side, side))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(truth.segments) == number
    assert peak < 15 * side**2  # ids have four bytes, masks one
