"""Oracle analysis: what a model's panoptic quality would be if one kind of its errors were corrected by the truth.

The greater the gain, the more is lost to that kind of error. The precedent is Panoptic FCN's, whose PQ of 43.6 became
49.8 with true positions and 65.9 with true classes as well. Here no model is run again: its results are corrected, so
any model can be analysed, ours or not.

- class: every predicted segment takes the class of the true segment that it fits best, and keeps its own where it
  meets none. Segments that then have one class of stuff become one segment.
- mask: predicted and true segments of one class are paired, best fit first, as long as they share a pixel. Each
  predicted one takes the mask of its partner; those without keep what is free after that, and vanish if nothing is.
- location: the truth chooses which of the model's candidates are segments. Candidates are the segments of the panoptic
  map and, where the model gives them, the instances, which include things that merging dropped or covered. Each true
  segment gets the candidate that fits it best among those that PQ counts as found: of its class, with an IoU above
  0.5. All others are dropped, so what is still missing was never seen, has another class or a poor mask. Where chosen
  candidates overlap, the better-fitting one has the pixel.

Together: with class, location also chooses candidates of other classes, which become those of their true segments;
with mask, any candidate that shares a pixel, which gets the mask. All three are the truth, short of the segments that
no candidate is left for: each is that of one segment alone. Without location, class comes before mask.

"Fit" is the IoU of panoptic quality (overlaps.py). Void pixels of the truth are void to PQ too, and stay as they are
but under masks of the truth. Crowds are no segments to find: they lend their class to segments that lie in
them, and neither their mask nor their location. Instances with one and the same mask are one candidate, with the class
of the best score: a query that is sure of the wrong class stays wrong.

Mask never lowers the PQ of any class. The others do in rare cases, as when stuff of two segments becomes one; and
where candidates are few, class lets them go to other segments than their own class's, which may be a rarer one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from .overlaps import Segment, crowds, instances, overlaps, pairs_best_first, segments
from .results import Prediction

__all__ = ["ORACLES", "oracle_prediction"]

CLASS, MASK, LOCATION = "class", "mask", "location"
# What is corrected, by the name of the table's row.
ORACLES: dict[str, frozenset[str]] = {
    "class": frozenset({CLASS}),
    "mask": frozenset({MASK}),
    "location": frozenset({LOCATION}),
    "class and mask": frozenset({CLASS, MASK}),
    "location and class": frozenset({LOCATION, CLASS}),
    "location and mask": frozenset({LOCATION, MASK}),
    "location, class and mask": frozenset({LOCATION, CLASS, MASK}),
}
# Segments count as found above this IoU (Kirillov et al., "Panoptic Segmentation", section 4.1).
FOUND_IOU = 0.5


def oracle_prediction(prediction: Prediction, truth: Prediction, kinds: frozenset[str]) -> Prediction:
    """Return a prediction with some kinds of errors corrected by the truth; it has no instances.

    Args:
        prediction: of the model. Of its instances, the best must be first.
        truth: of the same picture; records of crowds have `iscrowd` 1.
        kinds: any of "class", "mask" and "location"; see ORACLES.
    Raises: ValueError: if there is another kind, or the two have different sizes.
    """
    unknown = sorted(kinds - {CLASS, MASK, LOCATION})
    if unknown:
        raise ValueError(f"oracle {unknown[0]!r} is not known: choose among {CLASS!r}, {MASK!r} and {LOCATION!r}")
    size = prediction.segment_ids.shape
    if size != truth.segment_ids.shape:
        raise ValueError(
            f"the prediction has (height, width) {size}, the truth {truth.segment_ids.shape}: "
            "let the model predict at the size of the truth"
        )
    found, true, is_crowd = segments(prediction), segments(truth), crowds(truth)
    if LOCATION in kinds:
        return _paint(_chosen([*found, *instances(prediction)], true, is_crowd, kinds), size)
    if CLASS in kinds:
        found = _with_true_classes(found, true, is_crowd)
    if MASK in kinds:
        found = _with_true_masks(found, true, is_crowd)
    return _paint(found, size)


def _chosen(
    candidates: Sequence[Segment], true: Sequence[Segment], is_crowd: np.ndarray, kinds: frozenset[str]
) -> list[Segment]:
    """Return the candidates that the truth chooses, best fit first, with classes and masks corrected if asked for."""
    fits = overlaps(candidates, true, is_crowd)
    is_found = fits > (0 if MASK in kinds else FOUND_IOU)
    if CLASS not in kinds:
        is_found &= _same_class(candidates, true)
    chosen = []
    for candidate, target in pairs_best_first(np.where(is_found & ~is_crowd, fits, 0)):
        segment = candidates[candidate]
        if CLASS in kinds:
            segment = _of_class(segment, true[target])
        if MASK in kinds:
            segment = dataclasses.replace(segment, pixels=true[target].pixels)
        chosen.append(segment)
    return chosen


def _with_true_classes(found: Sequence[Segment], true: Sequence[Segment], is_crowd: np.ndarray) -> list[Segment]:
    """Return the segments with the classes of those that they fit best, each class of stuff once."""
    corrected: list[Segment] = []
    stuff: dict[int, int] = {}
    for segment, fits in zip(found, overlaps(found, true, is_crowd), strict=True):
        if fits.any():
            segment = _of_class(segment, true[int(fits.argmax())])
        number = stuff.get(segment.category_id)
        if number is None:
            if not segment.isthing:
                stuff[segment.category_id] = len(corrected)
            corrected.append(segment)
        else:
            pixels = np.union1d(corrected[number].pixels, segment.pixels)
            corrected[number] = dataclasses.replace(corrected[number], pixels=pixels)
    return corrected


def _with_true_masks(found: Sequence[Segment], true: Sequence[Segment], is_crowd: np.ndarray) -> list[Segment]:
    """Return the segments with the masks of their partners of the same class; those without partner come last."""
    fits = overlaps(found, true, is_crowd)
    partners = dict(pairs_best_first(np.where(_same_class(found, true) & ~is_crowd, fits, 0)))
    paired = [dataclasses.replace(found[number], pixels=true[target].pixels) for number, target in partners.items()]
    return paired + [segment for number, segment in enumerate(found) if number not in partners]


def _same_class(predicted: Sequence[Segment], true: Sequence[Segment]) -> np.ndarray:
    """Return (N, T) bool."""
    classes = [np.array([segment.category_id for segment in side], dtype=np.int64) for side in (predicted, true)]
    return classes[0][:, None] == classes[1]


def _of_class(segment: Segment, other: Segment) -> Segment:
    return dataclasses.replace(segment, category_id=other.category_id, isthing=other.isthing)


def _paint(painted: Sequence[Segment], size: tuple[int, int]) -> Prediction:
    """Return the panoptic map of segments, of which the first has the pixels that several claim."""
    ids = np.zeros(size[0] * size[1], dtype=np.int32)
    records = []
    for segment in painted:
        free = segment.pixels[ids[segment.pixels] == 0]
        if len(free):
            ids[free] = len(records) + 1
            record = {"id": len(records) + 1, "category_id": segment.category_id, "isthing": segment.isthing}
            records.append({**record, "score": segment.score, "area": len(free)})
    return Prediction(ids.reshape(size), records)
