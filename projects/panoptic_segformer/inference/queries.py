"""The queries behind the segments: where each looks, and where it takes its segment to be.

Paper, figures 1 and 4: queries are locations, and their attention to the memory is their mask. Attention is shown as
it is before merging: unbounded, and in the places that another segment took.
Shape legend: H, W size of the result; h, w size of attention, an eighth of the picture in the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..meta_arch import PanopticSegFormer
from .candidates import Candidates
from .merging import score_candidates, upper_score_bounds
from .outputs import merged_candidates

__all__ = ["SegmentQuery", "check_has_queries", "predict_with_queries"]


@dataclass(frozen=True, eq=False)
class SegmentQuery:
    """A query that became a segment, or part of one.

    Attributes:
        segment_id: of the segment.
        attention: (h, w) float32, its mask before merging: 0 or more, 0.5 separates inside from outside.
        location: in units of the picture, (cx, cy, w, h) or (cx, cy); empty where the model gives the query none.
            Queries of stuff have none.
    """

    segment_id: int
    attention: np.ndarray
    location: tuple[float, ...]


def check_has_queries(model: nn.Module) -> None:
    """Raise ValueError if a model is none whose queries can be shown."""
    if not isinstance(model, PanopticSegFormer):
        raise ValueError(f"{type(model).__name__} has no queries to show: choose a config of PanopticSegFormer")


@torch.no_grad()
def predict_with_queries(model: PanopticSegFormer, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `panoptic_seg` as the model itself gives it, and `queries`, those of the segments in painting order.

    Args:
        model: in evaluation.
        batched_inputs: as the model takes them, with `height` and `width`.
    """
    collected = model.all_candidates(model.preprocess(batched_inputs))
    return [
        _with_queries(model, candidates, (example["height"], example["width"]))
        for candidates, example in zip(collected, batched_inputs, strict=True)
    ]


def _with_queries(model: PanopticSegFormer, candidates: Candidates, size: tuple[int, int]) -> dict[str, Any]:
    """Merge the candidates of one picture of size (H, W), keeping those that survive."""
    options = model.inference_options.merging
    bounds = upper_score_bounds(candidates.class_probs, candidates.masks, options)
    candidates = candidates.select(bounds >= options.score_threshold)
    scores = score_candidates(candidates.class_probs, candidates.masks, size, options)
    segment_ids, segments_info, kept, numbers = merged_candidates(candidates, scores, size, options)
    queries = [
        SegmentQuery(number, candidates.masks[index].float().cpu().numpy(), _location(candidates, index))
        for number, index in zip(numbers, kept.tolist(), strict=True)
    ]
    return {"panoptic_seg": (segment_ids, segments_info), "queries": queries}


def _location(candidates: Candidates, index: int) -> tuple[float, ...]:
    return tuple(candidates.boxes[index].tolist()) if index < len(candidates.boxes) else ()
