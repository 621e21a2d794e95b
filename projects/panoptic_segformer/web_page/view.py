"""Show a result as html: the drawn picture, over it the segments that the pointer finds, and below it their table.

The picture is shrunk for display; figures of the table are those of the picture as it came.
Shape legend: H, W picture size; h, w size on display; N segments.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from ..inference.result import PanopticResult, ResultSegment
from ..markup import Markup, element
from ..visualization import Style, draw_panoptic

__all__ = ["DRAWINGS", "NAMED", "PLAIN", "for_display", "segment_paths", "view_markup"]

NAMED, PLAIN = "overlay with names", "picture"
# Style of each drawing, and whether names are written on the segments; the page's first choice first.
DRAWINGS: dict[str, tuple[Style, bool] | None] = {
    NAMED: (Style.OVERLAY, True),
    "overlay": (Style.OVERLAY, False),
    "contours": (Style.CONTOURS, True),
    "boxes": (Style.BOXES, True),
    PLAIN: None,
}

# Longest side on display; screens show no more of it beside the controls.
LONGEST_SIDE = 1280
JPEG_QUALITY = 90
COLUMNS = ("class", "kind", "score", "area (pixels)", "box (x0, y0, x1, y1)")


def for_display(result: PanopticResult) -> PanopticResult:
    """Return a result whose picture and ids (h, w) are shrunk to `LONGEST_SIDE`, if they are larger.

    Areas and boxes stay as they are. A segment thinner than a pixel of the display may be in the list only.
    """
    height, width = result.segment_ids.shape
    factor = LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return result
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    image = Image.fromarray(result.image).resize(size, Image.Resampling.BOX)
    ids = np.asarray(Image.fromarray(result.segment_ids).resize(size, Image.Resampling.NEAREST))
    # Segments refer to the map that they are in: the large one is not to be kept.
    segments = [replace(segment, segment_ids=ids) for segment in result.segments]
    return replace(result, image=np.asarray(image), segment_ids=ids, segments=segments)


def view_markup(result: PanopticResult, drawing: str = NAMED, least_score: float = 0.0) -> Markup:
    """Return a result as html.

    Parts of a segment have its id as `data-segment`; those of the table have its class and score as `data-tip`.

    Args:
        result: as `for_display` returns it.
        drawing: one of `DRAWINGS`.
        least_score: segments below it are left out.
    Raises: ValueError: if there is no such drawing.
    """
    segments = [segment for segment in result.segments if segment.score >= least_score]
    height, width = result.segment_ids.shape
    paths = segment_paths(result.segment_ids)
    shown = [(segment.id, paths.pop(segment.id)) for segment in segments if segment.id in paths]
    outlines = [element("path", data_segment=segment_id, d=path) for segment_id, path in shown]
    if paths:  # Void, and what is left out: nothing to point at, but darker too while a segment stands out.
        outlines.append(element("path", d="".join(paths.values())))
    figure = element(
        "figure",
        element("img", src=_data_address(_draw(result, segments, drawing)), alt=_description(segments)),
        element("svg", *outlines, viewBox=f"0 0 {width} {height}", preserveAspectRatio="none"),
    )
    tip = element("output", class_="tip", hidden=True)
    return element("div", figure, _table(segments, len(result.segments)), tip, class_="segments")


def segment_paths(segment_ids: np.ndarray) -> dict[int, str]:
    """Return the pixels of every id of a map (h, w), void among them, as an SVG path of rectangles."""
    rows, starts, stops, ids = _runs(segment_ids)
    # Equal runs in consecutive rows make one rectangle.
    order = np.lexsort((rows, stops, starts, ids))
    rows, starts, stops, ids = rows[order], starts[order], stops[order], ids[order]
    goes_on = (np.diff(rows) == 1) & (np.diff(starts) == 0) & (np.diff(stops) == 0) & (np.diff(ids) == 0)
    first = np.flatnonzero(np.r_[True, ~goes_on])
    heights = np.diff(np.r_[first, len(rows)])
    paths: dict[int, list[str]] = {}
    rectangles = zip(*(column[first].tolist() for column in (ids, starts, stops, rows)), heights.tolist(), strict=True)
    for segment_id, x0, x1, y0, height in rectangles:
        paths.setdefault(segment_id, []).append(f"M{x0} {y0}H{x1}v{height}H{x0}z")
    return {segment_id: "".join(parts) for segment_id, parts in paths.items()}


def _runs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return row, first column, column after the last, and id of every horizontal run of equal ids."""
    begins = np.ones(ids.shape, bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
    rows, starts = begins.nonzero()
    # A run ends where the next one begins, or with its row.
    stops = np.r_[starts[1:], 0]
    stops[stops == 0] = ids.shape[1]
    return rows, starts, stops, ids[rows, starts]


def _draw(result: PanopticResult, segments: list[ResultSegment], drawing: str) -> np.ndarray:
    """Return the picture as it is shown, (h', w', 3): small ones may be enlarged."""
    if drawing not in DRAWINGS:
        raise ValueError(f"there is no drawing {drawing!r}: choose one of {', '.join(DRAWINGS)}")
    if drawing == PLAIN:
        return result.image
    style, with_labels = DRAWINGS[drawing]
    kept = {segment.id for segment in segments}
    return draw_panoptic(
        result.image,
        result.segment_ids,
        [record for record in result.segments_info if record["id"] in kept],
        result.categories,
        ranks=_ranks(result.segments),
        with_labels=with_labels,
        with_legend=False,
        style=style,
    )


def _ranks(segments: Iterable[ResultSegment]) -> Mapping[int, int]:
    """Return the rank of every id within its class among all segments: leaving some out changes no colour."""
    counts: Counter[tuple[bool, int]] = Counter()
    ranks = {}
    for segment in segments:
        key = segment.isthing, segment.category_id
        ranks[segment.id] = counts[key]
        counts[key] += 1
    return ranks


def _data_address(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _description(segments: list[ResultSegment]) -> str:
    counts = Counter(segment.name for segment in segments)
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "no segments"


def _table(segments: list[ResultSegment], number: int) -> Markup:
    """Return a row for each segment, of which there are `number` with those that are left out."""
    words = f"{len(segments)} of {number} segments" if len(segments) < number else f"{number} segments"
    head = element("thead", element("tr", *(element("th", title, scope="col") for title in COLUMNS)))
    return element("table", element("caption", words), head, element("tbody", *(_row(segment) for segment in segments)))


def _row(segment: ResultSegment) -> Markup:
    score, box = f"{segment.score:.2f}", ", ".join(map(str, segment.box))
    cells = (segment.name, "thing" if segment.isthing else "stuff", score, f"{segment.area:,}", box)
    return element(
        "tr",
        *(element("td", cell) for cell in cells),
        data_segment=segment.id,
        data_tip=f"{segment.name} {score}",
        tabindex=0,
    )
