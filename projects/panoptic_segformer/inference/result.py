"""What a model sees in one picture, in a form to look at, to draw and to save.

Detectron2 returns an id map and a list of records; this adds the picture, the classes' names and a box per segment.
Shape legend: H, W picture size; n segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from torch import Tensor

from ..visualization import (
    QueryView,
    Style,
    class_key,
    class_styles,
    draw_on_picture,
    draw_panoptic,
    draw_queries,
    segment_colors,
    side_by_side,
    write_picture,
)

if TYPE_CHECKING:
    from ..data.categories import Categories
    from .queries import SegmentQuery

__all__ = ["DRAWING_STYLES", "QUERIES", "SIDE_BY_SIDE", "PanopticResult", "ResultSegment"]

SIDE_BY_SIDE, QUERIES = "side-by-side", "queries"
# What `PanopticResult.overlay` can draw.
DRAWING_STYLES = (*map(str, Style), SIDE_BY_SIDE, QUERIES)

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
        queries: behind the segments, in painting order; None unless they were asked for.
    """

    image: np.ndarray
    segment_ids: np.ndarray
    segments: list[ResultSegment]
    categories: Categories
    queries: list[SegmentQuery] | None = None

    @classmethod
    def from_output(cls, image: np.ndarray, output: Mapping[str, Any], categories: Categories) -> PanopticResult:
        """Return the result of a picture from a model's output.

        Args:
            image: (H, W, 3) uint8 RGB.
            output: with `panoptic_seg` (ids (H, W), records) and possibly `queries`.
            categories: of the model's dataset.
        Raises: ValueError: if the output has no `panoptic_seg`.
        """
        if "panoptic_seg" not in output:
            raise ValueError(
                f"the model returns {sorted(output)} but no panoptic_seg: switch its panoptic results on in the config "
                "(Panoptic FCN: MODEL.INFERENCE.COMBINE.ENABLE True)"
            )
        ids, records = output["panoptic_seg"]
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
        return cls(image, ids, segments, categories, output.get("queries"))

    @property
    def segments_info(self) -> list[dict[str, Any]]:
        """The segments as Detectron2 lists them: id, category_id (contiguous), isthing, score, area."""
        keys = ("id", "category_id", "isthing", "score", "area")
        return [{key: getattr(segment, key) for key in keys} for segment in self.segments]

    def overlay(self, style: str = Style.OVERLAY, *, labels: bool = True, legend: bool = True) -> np.ndarray:
        """Return the picture with its segments drawn.

        Args:
            style: "overlay" fills and outlines segments, "contours" outlines them, "boxes" shows things by their
                boxes, "side-by-side" puts the picture beside its overlay, "queries" shows locations and attention of
                the queries (of a predictor made `with_queries`).
            labels: write name and score on each segment that has room for them.
            legend: list the classes below the picture; small pictures are enlarged then.
        Returns: (H', W', 3) uint8 RGB; without legend (H, W, 3) for the styles of one panel.
        Raises: ValueError: if there is no such style, or the result has no queries to show.
        """
        if style == SIDE_BY_SIDE:
            return side_by_side([("picture", self.image), ("segments", self.overlay(labels=labels, legend=legend))])
        if style == QUERIES:
            return draw_queries(self.image, self.overlay(labels=False, legend=False), self._query_views())
        if style not in tuple(Style):
            raise ValueError(f"there is no style {style!r}: choose one of {', '.join(DRAWING_STYLES)}")
        arguments = (self.image, self.segment_ids, self.segments_info, self.categories)
        if legend:
            return draw_panoptic(*arguments, with_labels=labels, style=Style(style))
        return draw_on_picture(*arguments, with_labels=labels, style=Style(style))

    def _query_views(self) -> list[QueryView]:
        if self.queries is None:
            raise ValueError(
                "the result has no queries to show: predict with PanopticPredictor(..., with_queries=True)"
            )
        segments = {segment.id: segment for segment in self.segments}
        colors = segment_colors(self.segments_info, class_styles(self.categories))
        return [
            QueryView(
                f"{segments[query.segment_id].name} {segments[query.segment_id].score:.2f}",
                colors[query.segment_id],
                query.attention,
                query.location,
            )
            for query in self.queries
        ]

    def save(self, path: str | Path, style: str = Style.OVERLAY, *, labels: bool = True, legend: bool = True) -> None:
        """Write what `overlay` returns in the format of the path's ending; folders are made as needed."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(self.overlay(style, labels=labels, legend=legend), path)
