"""Masks at the size of the result against F.interpolate and plain loops, compiled and by their definitions."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from operator_inputs import DEVICES
from torch.nn import functional as F

from compiled import require_compiled
from panoptic_segformer.ops import mask_merging_reference, mask_statistics, masks_above, paint_masks

THRESHOLD = 0.5
# Interpolation rounds in an order of its own: a pixel so close to the threshold may fall on either side.
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-13}
DTYPES = [torch.float32, torch.float64]
SIDES = st.integers(1, 70)
WITHOUT_AVX2 = platform.machine() == "x86_64" and os.environ.get("ATEN_CPU_CAPABILITY") == "default"
each_example_alone = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def draw_masks(shape, dtype=torch.float32, seed=0):
    """Draw values around the threshold; some masks are below it everywhere, some in places."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(shape, generator=generator, dtype=torch.float64)
    masks[1::3] *= 0.05
    masks[2::3, : shape[1] // 2] = -1
    return masks.to(dtype)


def upsample(masks, size):
    return F.interpolate(masks[None].double(), size, mode="bilinear", align_corners=False)[0]


def paint_slowly(inside, rows, limits):
    """Paint by the rule's own words."""
    segment_ids = np.zeros(inside.shape[1:], int)
    kept, areas = [], []
    for row, limit in zip(rows, limits, strict=True):
        area = inside[row].sum()
        free = inside[row] & (segment_ids == 0)
        areas.append(free.sum())
        kept.append(free.any() and np.float32(area - free.sum()) / np.float32(area) <= np.float32(limit))
        if kept[-1]:
            segment_ids[free] = sum(kept)
    return segment_ids, kept, areas


@each_example_alone
@given(height=SIDES, width=SIDES, size=st.tuples(SIDES, SIDES), dtype=st.sampled_from(DTYPES))
def test_statistics_and_places_are_those_of_interpolate(each_backend, height, width, size, dtype):
    masks = draw_masks((4, height, width), dtype)
    values = upsample(masks, size)
    above = masks_above(masks, size, THRESHOLD)
    clear = (values - THRESHOLD).abs() > CLOSE[dtype] * masks.abs().max()
    assert above.dtype == torch.bool
    assert torch.equal(above[clear], values[clear] > THRESHOLD)
    areas, sums = mask_statistics(masks, size, THRESHOLD)
    assert torch.equal(areas, above.sum((1, 2)))
    assert sums.dtype == dtype
    torch.testing.assert_close(sums, (values * above).sum((1, 2)).to(dtype))


@each_example_alone
@given(
    data=st.data(),
    size=st.tuples(SIDES, SIDES),
    limits=st.lists(st.sampled_from([0.0, 0.2, 0.4, 1.0, math.nan]), max_size=8),
    dtype=st.sampled_from(DTYPES),
)
def test_painting_equals_the_plain_loop(each_backend, data, size, limits, dtype):
    masks = draw_masks((5, 6, 7), dtype, seed=data.draw(st.integers(0, 99)))
    rows = data.draw(st.lists(st.integers(0, 4), min_size=len(limits), max_size=len(limits)))
    inside = masks_above(masks, size, THRESHOLD)
    arguments = torch.tensor(rows, dtype=torch.int64), torch.tensor(limits), size, THRESHOLD
    segment_ids, kept, areas = paint_masks(masks, *arguments)
    expected_ids, expected_kept, expected_areas = paint_slowly(inside.numpy(), rows, limits)
    assert (segment_ids.dtype, kept.dtype, areas.dtype) == (torch.int32, torch.bool, torch.int64)
    assert segment_ids.tolist() == expected_ids.tolist()
    assert kept.tolist() == expected_kept
    assert areas.tolist() == expected_areas


@each_example_alone
@given(
    masks=npst.arrays(
        np.float32, (3, 4, 4), elements=st.sampled_from([0.0, 0.5, 1.0, -3e38, 3e38, math.nan, math.inf, -math.inf])
    ),
    size=st.tuples(st.sampled_from([1, 2, 4, 8, 16, 64]), st.sampled_from([1, 2, 4, 8, 16, 64])),  # Exact weights.
    threshold=st.sampled_from([0.0, -0.5, 0.49, math.inf, -math.inf, math.nan, -3e38]),
)
def test_values_that_are_not_finite_count_as_in_interpolate(each_backend, masks, size, threshold):
    """An infinite value beside the place of a pixel, with weight 0, makes it not a number."""
    masks = torch.from_numpy(masks)
    expected = F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0] > threshold
    assert torch.equal(masks_above(masks, size, threshold), expected)
    areas, sums = mask_statistics(masks, size, threshold)
    assert torch.equal(areas, expected.sum((1, 2)))
    assert not sums.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [1.91, -1.89])
def test_no_pixel_is_left_out_that_only_rounding_takes_above_the_threshold(threshold, dtype):
    """Parts of a mask that can't be above the threshold are skipped; large corners let nothing be skipped."""
    require_compiled()
    mask = torch.full((1, 9, 9), threshold, dtype=dtype)
    mask_with_corners = mask.clone()
    mask_with_corners[:, [0, -1], [-1, 0]] = 2.0
    alone, beside_corners = (masks_above(x, (97, 131), threshold)[:, :80, :100] for x in (mask, mask_with_corners))
    if not alone.any():
        assert not WITHOUT_AVX2, "no pixel was rounded up"
        pytest.skip("fused multiplication and addition rounds nothing up in this mask")
    assert torch.equal(alone, beside_corners)


@pytest.mark.parametrize("device", DEVICES)
def test_definitions_agree_with_the_compiled_operators_on_a_picture(device):
    require_compiled()
    masks = draw_masks((12, 50, 76))
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(12, (30,), generator=generator)
    limits = torch.rand(30, generator=generator)
    size = (400, 611)
    compiled = [*mask_statistics(masks, size, 0.5), masks_above(masks, size, 0.5)]
    compiled += paint_masks(masks, rows, limits, size, 0.5)
    masks, rows, limits = masks.to(device), rows.to(device), limits.to(device)
    definitions = mask_merging_reference.MASK_DEFINITIONS
    defined = [*definitions["mask_statistics"](masks, size, 0.5), definitions["masks_above"](masks, size, 0.5)]
    defined += definitions["paint_masks"](masks, rows, limits, size, 0.5)
    assert 2 < defined[4].sum() < 30, "some candidates are kept, some dropped"
    for actual, expected in zip(compiled, defined, strict=True):
        if expected.is_floating_point() or expected.dtype == torch.int64:
            torch.testing.assert_close(actual, expected.cpu(), rtol=1e-4, atol=2)
        else:
            assert (actual != expected.cpu()).float().mean() < 1e-4  # Pixels at the threshold, by rounding.


def test_chunks_of_the_definition_change_nothing(monkeypatch):
    masks = draw_masks((7, 5, 6))
    rows = torch.tensor([6, 0, 0, 3, 5, 2])
    limits = torch.full((6,), 0.4)

    def results():
        definitions = mask_merging_reference.MASK_DEFINITIONS
        yield from definitions["mask_statistics"](masks, (19, 23), THRESHOLD)
        yield definitions["masks_above"](masks, (19, 23), THRESHOLD)
        yield from definitions["paint_masks"](masks, rows, limits, (19, 23), THRESHOLD)

    whole = list(results())
    sizes = []
    interpolate = F.interpolate
    monkeypatch.setattr(
        mask_merging_reference.F, "interpolate", lambda x, *a, **k: sizes.append(x.shape[1]) or interpolate(x, *a, **k)
    )
    monkeypatch.setattr(mask_merging_reference, "PIXELS_PER_CHUNK", 2 * 19 * 23)
    for one, other in zip(whole, results(), strict=True):
        assert torch.equal(one, other)
    assert max(sizes) == 2


def test_results_do_not_depend_on_the_number_of_threads():
    require_compiled()
    masks = draw_masks((9, 50, 76))
    rows, limits = torch.arange(9), torch.full((9,), 0.6)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append([*mask_statistics(masks, (400, 608), 0.5), masks_above(masks, (400, 608), 0.5)])
            results[-1] += paint_masks(masks, rows, limits, (400, 608), 0.5)
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


def test_masks_need_not_be_contiguous(each_backend):
    masks = draw_masks((4, 6, 7)).transpose(1, 2)
    for actual, expected in zip(
        mask_statistics(masks, (20, 30), 0.5), mask_statistics(masks.contiguous(), (20, 30), 0.5), strict=True
    ):
        assert torch.equal(actual, expected)


def test_no_masks_and_no_candidates(each_backend):
    none = torch.zeros(0, 3, 4)
    areas, sums = mask_statistics(none, (5, 6), 0.5)
    assert areas.shape == sums.shape == (0,)
    assert masks_above(none, (5, 6), 0.5).shape == (0, 5, 6)
    nothing = torch.zeros(0, dtype=torch.int64)
    segment_ids, kept, areas = paint_masks(none, nothing, nothing.float(), (5, 6), 0.5)
    assert segment_ids.tolist() == [[0] * 6] * 5
    assert len(kept) == len(areas) == 0


def test_masks_that_require_gradients_give_detached_results(each_backend):
    masks = draw_masks((2, 3, 4)).requires_grad_()
    _, sums = mask_statistics(masks, (5, 6), 0.5)
    assert not sums.requires_grad


MASKS, ROWS, LIMITS = torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64), torch.zeros(2)
WRONG = {
    "masks of another rank": ((MASKS[0], ROWS, LIMITS, (5, 6)), r"masks must be \[masks, height, width\].*\[3, 4\]"),
    "masks without pixels": ((MASKS[:, :0], ROWS, LIMITS, (5, 6)), r"sides of at least 1.*got shape \[2, 0, 4\]"),
    "half precision": ((MASKS.half(), ROWS, LIMITS, (5, 6)), "must be float32 or float64, got"),
    "size without pixels": ((MASKS, ROWS, LIMITS, (5, 0)), r"size must be \(height, width\) of at least 1 .*5, 0"),
    "size of one number": ((MASKS, ROWS, LIMITS, (5,)), r"size must be \(height, width\)"),
    "size beyond float32": ((MASKS, ROWS, LIMITS, (1, 2**24 + 1)), "at most 16777216, got"),
    "rows of int32": ((MASKS, ROWS.int(), LIMITS, (5, 6)), r"rows must be int64 \[candidates\].*\[2\]"),
    "rows of rank 2": ((MASKS, ROWS[None], LIMITS[None], (5, 6)), r"rows must be int64 \[candidates\].*\[1, 2\]"),
    "fewer limits than rows": ((MASKS, ROWS, LIMITS[:1], (5, 6)), r"limits .*of the same length.*\[2\].*\[1\]"),
    "limits that count": ((MASKS, ROWS, ROWS, (5, 6)), "limits float"),
    "row past the masks": ((MASKS, ROWS + 2, LIMITS, (5, 6)), "below the number of masks, 2, got 2"),
    "negative row": ((MASKS, ROWS - 1, LIMITS, (5, 6)), "at least 0 and below the number of masks, 2, got -1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_is_named_with_its_values(each_backend, name):
    arguments, message = WRONG[name]
    with pytest.raises(RuntimeError, match=message):
        paint_masks(*arguments, THRESHOLD)


@pytest.mark.parametrize("name", WRONG)
def test_compiled_operator_checks_its_arguments_itself(name):
    require_compiled()
    arguments, message = WRONG[name]
    with pytest.raises(RuntimeError, match=message):
        torch.ops.panoptic_segformer.paint_masks(*arguments, THRESHOLD)


@pytest.mark.parametrize("operator", [mask_statistics, masks_above])
def test_wrong_masks_are_refused_by_every_function(each_backend, operator):
    with pytest.raises(RuntimeError, match="float32 or float64"):
        operator(MASKS.half(), (5, 6), THRESHOLD)
    with pytest.raises(RuntimeError, match="size must be"):
        operator(MASKS, (5, 0), THRESHOLD)


def test_devices_that_differ_are_refused(each_backend):
    with pytest.raises(RuntimeError, match="masks, rows and limits must be on one device, got cpu, meta and cpu"):
        paint_masks(MASKS, ROWS.to("meta"), LIMITS, (5, 6), THRESHOLD)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    require_compiled()
    operators = torch.ops.panoptic_segformer
    masks = draw_masks((3, 4, 5), dtype)
    torch.library.opcheck(operators.mask_statistics.default, (masks, [7, 9], THRESHOLD))
    torch.library.opcheck(operators.masks_above.default, (masks, [7, 9], THRESHOLD))
    rows, limits = torch.tensor([2, 0]), torch.tensor([0.5, 0.5])
    torch.library.opcheck(operators.paint_masks.default, (masks, rows, limits, [7, 9], THRESHOLD))


def test_compiles_as_one_graph():
    require_compiled()
    torch.compiler.reset()
    arguments = ROWS, LIMITS, (5, 6), THRESHOLD
    for number in (2, 3):
        masks = draw_masks((number, 3, 4))
        compiled = torch.compile(paint_masks, fullgraph=True, backend="aot_eager", dynamic=True)
        for actual, expected in zip(compiled(masks, *arguments), paint_masks(masks, *arguments), strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.slow
def test_all_this_holds_on_processors_without_avx2():
    """The variable that holds back torch's own kernels holds back ours; it is read once per process."""
    require_compiled()
    options = ["-q", "-p", "no:cacheprovider", "-k", "interpolate or painting or rounding or picture"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, *options],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout
