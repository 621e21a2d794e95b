"""What a model sees in one picture, in a form to look at, to draw and to save.

Detectron2 returns an id map and a list of records; this adds the picture, the classes' names and a box per segment.
Shape legend: H, W picture size; n segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from torch import Tensor

from ..visualization import class_key, class_styles, draw_panoptic, write_picture

if TYPE_CHECKING:
    from ..data.categories import Categories

__all__ = ["PanopticResult", "ResultSegment"]

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ResultSegment:
    """One segment of a picture.

    Attributes:
        id: its number in the map of segment ids.
        name: of its class.
        category_id: contiguous id of its class.
        isthing: whether its class is countable.
        score: confidence; masks of Panoptic SegFormer are unbounded, so its scores may exceed 1.
        area: visible pixels.
        box: the tight box (x0, y0, x1, y1) around them in pixels, x1 and y1 being the first ones outside.
        segment_ids: (H, W), of all segments of the picture.
    """

    id: int
    name: str
    category_id: int
    isthing: bool
    score: float
    area: int
    box: Box
    segment_ids: np.ndarray = field(repr=False, compare=False)

    @property
    def mask(self) -> np.ndarray:
        """Its visible pixels, (H, W) bool; made anew each time."""
        return self.segment_ids == self.id


@dataclass(frozen=True, eq=False)
class PanopticResult:
    """The segments of a picture.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        segment_ids: (H, W) int32; 0 = void.
        segments: n of them, in the model's order.
        categories: classes of the dataset that the model was trained on.
    """

    image: np.ndarray
    segment_ids: np.ndarray
    segments: list[ResultSegment]
    categories: Categories

    @classmethod
    def from_panoptic_seg(
        cls,
        image: np.ndarray,
        panoptic_seg: tuple[Tensor | np.ndarray, Sequence[Mapping[str, Any]]],
        categories: Categories,
    ) -> PanopticResult:
        """Return the result of a picture (H, W, 3) uint8 RGB for which a model gives a `panoptic_seg`."""
        ids, records = panoptic_seg
        ids = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids).astype(np.int32, copy=False)
        styles = class_styles(categories)
        outlines = ndimage.find_objects(ids)
        segments = []
        for record in records:
            isthing, category_id = class_key(record, styles)
            rows, columns = outlines[record["id"] - 1]
            segments.append(
                ResultSegment(
                    id=record["id"],
                    name=styles[isthing, category_id].name,
                    category_id=category_id,
                    isthing=isthing,
                    score=record["score"],
                    area=record["area"],
                    box=(columns.start, rows.start, columns.stop, rows.stop),
                    segment_ids=ids,
                )
            )
        return cls(image, ids, segments, categories)

    @property
    def segments_info(self) -> list[dict[str, Any]]:
        """The segments as Detectron2 lists them: id, category_id (contiguous), isthing, score, area."""
        keys = ("id", "category_id", "isthing", "score", "area")
        return [{key: getattr(segment, key) for key in keys} for segment in self.segments]

    def overlay(self, *, labels: bool = True, legend: bool = True) -> np.ndarray:
        """Return the picture with its segments painted over it.

        Args:
            labels: write name and score on each segment that has room for them.
            legend: list the classes below the picture.
        Returns: (H', W', 3) uint8 RGB; small pictures are enlarged, and the legend adds to the height.
        """
        return draw_panoptic(
            self.image,
            self.segment_ids,
            self.segments_info,
            self.categories,
            with_labels=labels,
            with_legend=legend,
        )

    def save(self, path: str | Path, *, labels: bool = True, legend: bool = True) -> None:
        """Write the overlay in the format of the path's ending; folders are made as needed."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(self.overlay(labels=labels, legend=legend), path)
