"""How far float32 results may be from the golden ones: rounding decides on which side of 0.5 a few pixels are."""

from __future__ import annotations

import torch

# Of a mask, the pixels that rounding may move across the threshold; of all masks, those that it may happen to.
MAX_FLIPPED_SHARE = 0.005
MAX_FLIPPED_MASKS = 0.1


def flipped_share(found, expected, index=slice(None)) -> torch.Tensor:
    """Share of each mask that lies on the other side of the threshold: rounding decides where a value is 0.5."""
    return (found - expected).abs()[index] / (expected[index] + 1)


def score_slack(golden, run, found, name) -> torch.Tensor | float:
    """Relative change of each candidate's score, which has the mean of its mask squared, that such pixels explain.

    One of A pixels changes the mean by its share of 1 / A at most. The cap is for masks of few pixels, which would
    explain anything.
    """
    area = golden[f"{run}/pp0.mask_area_sorted"]
    if name in ("pp0.scores_sorted", "pp0.seg_scores"):
        unsorted = golden[f"{run}/pp0.sort_index"].argsort() if name == "pp0.seg_scores" else slice(None)
        return 2 * flipped_share(found["pp0.mask_area_sorted"], area, unsorted).clamp(max=MAX_FLIPPED_SHARE)
    if name == "pp0.inst_bbox":
        share = flipped_share(found["pp0.inst_area"], golden[f"{run}/pp0.inst_area"])
        return 2 * share.clamp(max=MAX_FLIPPED_SHARE)[:, None]
    return 0.0


def is_close(golden, run, found, name) -> bool:
    expected = golden[f"{run}/{name}"]
    actual = found[name].reshape(expected.shape)
    if name in ("pp0.mask_area_sorted", "pp0.inst_area"):
        difference = (actual - expected).abs()
        return difference.max() <= 2 and (difference > 0).float().mean() <= MAX_FLIPPED_MASKS
    if name == "pp0.sort_index":  # candidates of equal score have no order
        return (found["pp0.scores_sorted"] - golden[f"{run}/pp0.scores_sorted"]).abs().max() < 5e-4
    if not expected.is_floating_point():
        return torch.equal(actual.to(expected), expected)
    allowed = 2e-5 + (1e-4 + score_slack(golden, run, found, name)) * expected.abs()
    return bool(((actual - expected).abs() <= allowed).all())
