"""What the page shows of each picture: its row of tiles, written as files, and the orders in which rows can stand.

A row is made at a time and only its words are kept, so that comparisons of any length fit into memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...data.reading import read_picture
from ...markup import number
from ..disagreement import disagreement_map
from ..matching import NumberedSegments
from ..results import Comparison, ModelResult, Picture, Prediction, PredictionOf, TruthOf
from .drawing import (
    THUMBNAIL_SIDE,
    dataset_categories,
    draw_disagreement,
    draw_prediction,
    shade_ranks,
    shrink,
    write_jpeg,
)

__all__ = ["Order", "Row", "RowMaker", "Tile", "row_orders"]


@dataclass(frozen=True)
class Tile:
    """One picture of a row.

    Attributes:
        title: whose it is.
        description: what is seen on it in words, or why there is no file.
        file: name of the drawing's file; "" if there is none.
        thumbnail: name of the file that stands for it on the page.
        size: (width, height) of the thumbnail.
        figures: to stand beside the title, such as "PQ 51.2".
    """

    title: str
    description: str
    file: str = ""
    thumbnail: str = ""
    size: tuple[int, int] = (0, 0)
    figures: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """Everything about one picture.

    Attributes:
        name: of the picture.
        tiles: input, truth if there is one, every model, and disagreement if there are several models.
        disagreement: in percent; nan with fewer than two predictions.
        qualities: PQ in percent by model; nan where there is none.
        category_ids: of all segments that are seen.
    """

    name: str
    tiles: Sequence[Tile]
    disagreement: float
    qualities: dict[str, float]
    category_ids: frozenset[int]


class RowMaker:
    """Makes the rows of a comparison.

    Args:
        comparison: finished.
        folder: where the files of the tiles go; it exists.
        prediction_of, truth_of: as for `write_page`.
    """

    def __init__(self, comparison: Comparison, folder: Path, prediction_of: PredictionOf, truth_of: TruthOf) -> None:
        self.pictures = comparison.pictures
        self.models = [model for model in comparison.models if not model.error]
        self.names = {category.id: category.name for category in comparison.categories}
        self.categories = dataset_categories(comparison.categories)
        self.folder = folder
        self.prediction_of, self.truth_of = prediction_of, truth_of

    def make(self, index: int) -> Row:
        """Write the tiles of picture number `index` and return its row.

        Raises: FileNotFoundError, ValueError: if the picture can't be read, or truth or predictions do not fit it.
        """
        picture = self.pictures[index]
        image = read_picture(picture.path, "RGB")
        truth = self.truth_of(picture)
        predictions = {model.name: self._prediction(model, picture) for model in self.models}
        made = {name: prediction for name, prediction in predictions.items() if prediction is not None}
        seen = made if truth is None else {"the truth": truth, **made}
        for whose, prediction in seen.items():
            _check_size(prediction, image, whose, picture)

        small_image = shrink(image)
        # What is seen first, the truth if there is one, decides the shades of all.
        reference = next(iter(seen.values()), None)
        stem = f"{index + 1:04d}"
        tiles = [self._tile("Input", "the picture as it is", f"{stem}_input", small_image)]
        if truth is not None:
            tiles.append(self._segments("Truth", f"{stem}_truth", small_image, truth, reference))
        for place, model in enumerate(self.models, start=1):
            prediction = predictions[model.name]
            if prediction is None:
                tiles.append(Tile(model.name, "No prediction: the model failed on this picture."))
            else:
                tile = self._segments(model.name, f"{stem}_model_{place}", small_image, prediction, reference)
                tiles.append(replace(tile, figures=_figures(model, picture, prediction)))
        mean = math.nan
        if len(made) > 1:
            shares = disagreement_map(list(made.values()))
            mean = 100 * float(shares.mean())
            drawing = draw_disagreement(small_image, shares)
            tile = self._tile("Disagreement", "bright where models disagree", f"{stem}_disagreement", drawing)
            tiles.append(replace(tile, figures=[f"{number(mean)} %"]))
        elif len(self.models) > 1:
            tiles.append(Tile("Disagreement", "No map: fewer than two models have a prediction."))
        return Row(
            picture.name,
            tiles,
            mean,
            {model.name: model.picture_qualities.get(picture.name, math.nan) for model in self.models},
            frozenset(segment["category_id"] for prediction in seen.values() for segment in prediction.segments),
        )

    def _prediction(self, model: ModelResult, picture: Picture) -> Prediction | None:
        try:
            return self.prediction_of(model.name, picture)
        except KeyError:
            return None

    def _segments(
        self, title: str, stem: str, small_image: np.ndarray, prediction: Prediction, reference: Prediction
    ) -> Tile:
        """Return the tile of a prediction; names are on the drawing alone, where they can be read."""
        ranks = shade_ranks(prediction, reference)
        large, plain = (
            draw_prediction(small_image, prediction, ranks, self.categories, with_labels)
            for with_labels in (True, False)
        )
        return self._tile(title, self._words(prediction), stem, large, plain)

    def _tile(
        self, title: str, description: str, stem: str, drawing: np.ndarray, plain: np.ndarray | None = None
    ) -> Tile:
        """Write a drawing and its thumbnail, made of `plain` if that is given, and return their tile."""
        file, thumbnail_file = f"{stem}.jpg", f"{stem}_small.jpg"
        thumbnail = shrink(drawing if plain is None else plain, THUMBNAIL_SIDE)
        write_jpeg(drawing, self.folder / file)
        write_jpeg(thumbnail, self.folder / thumbnail_file)
        height, width = thumbnail.shape[:2]
        return Tile(title, description, file, thumbnail_file, (width, height))

    def _words(self, prediction: Prediction) -> str:
        """Return what a prediction sees: things with their number, and stuff."""
        counts = Counter(segment["category_id"] for segment in prediction.segments if segment["isthing"])
        things = [f"{count} {self.names[category_id]}" for category_id, count in counts.items()]
        stuff = dict.fromkeys(self.names[one["category_id"]] for one in prediction.segments if not one["isthing"])
        return ", ".join([*things, *stuff]) or "nothing"


def _check_size(prediction: Prediction, image: np.ndarray, whose: str, picture: Picture) -> None:
    if prediction.segment_ids.shape != image.shape[:2]:
        raise ValueError(
            f"the segments of {whose} for {picture.name} have (height, width) {prediction.segment_ids.shape}, the "
            f"picture {image.shape[:2]}: every pixel of the picture needs its segment"
        )


def _figures(model: ModelResult, picture: Picture, prediction: Prediction) -> list[str]:
    void = 100 * float((NumberedSegments.of(prediction).numbers == 0).mean())
    figures = [f"void {number(void)} %"]
    if picture.name in model.picture_qualities:
        figures.insert(0, f"PQ {number(model.picture_qualities[picture.name])}")
    return figures


@dataclass(frozen=True)
class Order:
    """One order of all rows: row number i stands at `places[i]`."""

    title: str
    places: Sequence[int]


def row_orders(rows: Sequence[Row]) -> list[Order]:
    """Return the orders that make a difference, the one to start with first.

    Those are disagreement (the most first), PQ of each model (the least first) and name; rows without the number
    come last, equal ones stay as they are.
    """
    orders = []
    if not all(math.isnan(row.disagreement) for row in rows):
        orders.append(_order("most disagreement", rows, lambda row: _nan_last(-row.disagreement)))
    for name in rows[0].qualities if rows else ():
        if not all(math.isnan(row.qualities[name]) for row in rows):
            orders.append(_order(f"least PQ of {name}", rows, lambda row, name=name: _nan_last(row.qualities[name])))
    return [*orders, _order("name", rows, lambda row: row.name)]


def _order(title: str, rows: Sequence[Row], key: Callable[[Row], object]) -> Order:
    ordered = sorted(range(len(rows)), key=lambda index: key(rows[index]))
    places = [0] * len(rows)
    for place, index in enumerate(ordered):
        places[index] = place
    return Order(title, places)


def _nan_last(value: float) -> tuple[bool, float]:
    return math.isnan(value), value
