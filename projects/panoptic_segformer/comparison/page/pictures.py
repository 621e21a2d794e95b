"""The page's section of pictures: legend of the classes, buttons of the orders, and the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...markup import Markup, element, number
from ..results import Category
from .rows import Order, Row, Tile

__all__ = ["FOLDER", "class_legend", "order_buttons", "picture_rows"]

# Of the tiles, beside the page.
FOLDER = "pictures"
# Longer legends are folded.
MOST_OPEN = 30
# Rows of more tiles take two lines on wide windows.
TILES_IN_A_LINE = 6


def class_legend(categories: Sequence[Category], rows: Sequence[Row]) -> Markup:
    """Return the colours of all classes that are seen in some row."""
    ids = frozenset[int]().union(*(row.category_ids for row in rows))
    seen = [category for category in categories if category.id in ids]
    kinds = []
    for title, isthing in (("Things", True), ("Stuff", False)):
        entries = [_legend_entry(category) for category in seen if category.isthing == isthing]
        if entries:
            kinds.append(element("div", element("dt", title), *entries))
    summary = element("summary", f"Colours of {len(seen)} classes")
    return element("details", summary, element("dl", *kinds), class_="legend", open=len(seen) <= MOST_OPEN)


def _legend_entry(category: Category) -> Markup:
    red, green, blue = category.color
    swatch = element("span", class_="swatch", style=f"background: rgb({red} {green} {blue})")
    return element("dd", swatch, category.name)


def order_buttons(orders: Sequence[Order]) -> Markup:
    """Return the buttons of the orders; the page's script shows them, as nothing happens without it."""
    buttons = [
        element("button", order.title, type="button", data_order=index, aria_pressed="false" if index else "true")
        for index, order in enumerate(orders)
    ]
    label = element("span", "Sort by", id="orders-label")
    return element("div", label, *buttons, id="orders", role="group", aria_labelledby="orders-label", hidden=True)


def picture_rows(rows: Sequence[Row], orders: Sequence[Order]) -> Markup:
    """Return all rows, in the first order."""
    items = [_row(row, [order.places[index] for order in orders]) for index, row in enumerate(rows)]
    most = max((len(row.tiles) for row in rows), default=1)
    columns = most if most <= TILES_IN_A_LINE else math.ceil(most / 2)
    return element("ol", *(items[index] for index in _indices(orders[0])), id="rows", style=f"--columns: {columns}")


def _indices(order: Order) -> list[int]:
    """Return the rows' numbers as they stand in an order."""
    return sorted(range(len(order.places)), key=lambda index: order.places[index])


def _row(row: Row, places: Sequence[int]) -> Markup:
    parts = [element("h3", row.name)]
    if not math.isnan(row.disagreement):
        parts.append(element("p", f"disagreement {number(row.disagreement)} %"))
    tiles = element("div", *(_tile(row, tile) for tile in row.tiles), class_="tiles")
    return element("li", element("header", *parts), tiles, class_="row", data_places=" ".join(map(str, places)))


def _tile(row: Row, tile: Tile) -> Markup:
    figures = [element("span", figure, class_="figure") for figure in tile.figures]
    caption = element("figcaption", element("strong", tile.title), *figures)
    if not tile.file:
        return element("figure", element("p", tile.description, class_="missing"), caption)
    width, height = tile.size
    words = f"{tile.title}, {row.name}: {tile.description}"
    image = element("img", src=f"{FOLDER}/{tile.thumbnail}", alt=words, width=width, height=height, loading="lazy")
    return element("figure", element("a", image, href=f"{FOLDER}/{tile.file}"), caption)
