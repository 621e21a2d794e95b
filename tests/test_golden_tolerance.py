"""The tolerance lets through what rounding does, and nothing else."""

from __future__ import annotations

import pytest
import torch

from golden_tolerance import is_close, score_slack


def test_few_pixels_explain_no_other_score():
    areas = {"run/pp0.mask_area_sorted": torch.tensor([1, 2, 1999, 500])}
    found = {"pp0.mask_area_sorted": torch.tensor([2, 1, 2000, 500])}
    slack = score_slack(areas, "run", found, "pp0.scores_sorted")
    assert torch.allclose(slack, torch.tensor([0.01, 0.01, 0.001, 0.0]))


@pytest.mark.parametrize(("masks", "pixels", "close"), [(1, 2, True), (1, 3, False), (2, 1, False)])
def test_few_masks_may_differ_by_few_pixels(masks, pixels, close):
    expected = torch.full((10,), 100)
    actual = expected.clone()
    actual[:masks] += pixels
    assert is_close({"run/pp0.inst_area": expected}, "run", {"pp0.inst_area": actual}, "pp0.inst_area") == close
