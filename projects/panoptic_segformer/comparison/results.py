"""What a comparison consists of: pictures, models, their predictions and what was measured of them.

Categories are the dataset's own ids throughout: models count theirs differently.
Shape legend: H, W size of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Category", "Comparison", "ModelResult", "Picture", "Prediction", "PredictionOf", "TruthOf"]


@dataclass(frozen=True)
class Category:
    """One class: its id in the dataset, its name, whether it is of things, its colour (red, green, blue)."""

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """One picture: its file, a name that no other picture has, and its id in the dataset's json (None without one)."""

    path: Path
    name: str
    image_id: int | str | None = None


@dataclass(frozen=True)
class Prediction:
    """What one model sees in one picture; a truth has the same form.

    Attributes:
        segment_ids: (H, W) int32, 0 = void.
        segments: records with id, category_id, isthing, score (None where the model gives none) and area.
        instances: records with category_id, score, segmentation (run lengths of pycocotools, counts as text) and bbox
            (x, y, width, height), best first; None where the model gives no instances.
    """

    segment_ids: np.ndarray
    segments: Sequence[Mapping[str, Any]]
    instances: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class ModelResult:
    """What was found out about one model.

    Attributes:
        name: as in the comparison's file, different for each model.
        note: free words of that file, such as how long the model was trained.
        error: what stopped it, in one line; "" if nothing did. The rest is empty then.
        qualities: measured, in percent, by column: PQ, SQ, RQ, each also with _th and _st, AP, AP_box, mIoU, mIoU_st.
            Empty without truth; nan or missing where there is none.
        costs: measured: parameters and trainable (numbers), flops (multiply-adds at the size `flops_size`), latency_ms
            and latency_p90_ms (of one picture, with merging and without reading and resizing), peak_memory (bytes
            beyond the weights).
        facts: text by name: config, weights, input sizes, architecture, device and versions.
        picture_qualities: PQ of single pictures in percent, by the picture's name.
        published: figures of others by column, as the comparison's file gives them, with "source".
        oracles: PQ in percent if one kind of error was corrected by the truth, by kind; empty if not asked for.
    """

    name: str
    note: str = ""
    error: str = ""
    qualities: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    picture_qualities: Mapping[str, float] = field(default_factory=dict)
    published: Mapping[str, float | str] = field(default_factory=dict)
    oracles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
        title: of the page.
        pictures: that all models saw, in their order.
        categories: of the truth, then those that models alone have.
        models: in the order of the file; failed ones too.
        facts: text by name about the whole: dataset, machine, versions, date.
    """

    title: str
    pictures: Sequence[Picture]
    categories: Sequence[Category]
    models: Sequence[ModelResult]
    facts: Mapping[str, str] = field(default_factory=dict)


# The prediction of a model (by name) for a picture; the truth of a picture, None where there is none.
PredictionOf = Callable[[str, Picture], Prediction]
TruthOf = Callable[[Picture], Prediction | None]
