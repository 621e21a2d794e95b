"""Which true class was taken for which, as a picture (svg) and as the most frequent cases.

Shape legend: K classes; rows and columns of a confusion are predicted and true classes, the last one is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..markup import Markup, element

__all__ = ["Mistake", "confusion_picture", "mistakes"]

# Units of the svg's own box.
CELL, LETTER, FONT_SIZE = 20, 8.0, 14
# More classes than these stand without their names, which the cells' titles have.
MOST_NAMED = 45
TITLE_HEIGHT = 30


@dataclass(frozen=True)
class Mistake:
    """Segments or pixels of one true class that were taken for another one; share is that of the true class."""

    true: str
    predicted: str
    number: int
    share: float


def mistakes(confusion: np.ndarray, names: Sequence[str]) -> list[Mistake]:
    """Return what was taken for another class or for none, the most frequent first.

    Args:
        confusion: (K + 1, K + 1).
        names: K + 1 names, the last one for none.
    """
    totals = confusion.sum(axis=0)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    cells = np.argwhere(wrong[:, :-1])
    found = [
        Mistake(names[true], names[own], int(wrong[own, true]), float(wrong[own, true] / totals[true]))
        for own, true in cells
    ]
    return sorted(found, key=lambda mistake: (-mistake.number, mistake.true, mistake.predicted))


def confusion_picture(confusion: np.ndarray, names: Sequence[str], unit: str) -> Markup:
    """Return the svg: a row per true class, and how its parts are shared out among the predicted ones.

    Args:
        confusion: (K + 1, K + 1).
        names: K + 1 names, the last one for none.
        unit: what is counted, in the plural.
    """
    occurring = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    shown = confusion[np.ix_(occurring, occurring)]
    shown_names = [names[index] for index in occurring]
    shares = shown / np.maximum(shown.sum(axis=0), 1)
    are_named = len(occurring) <= MOST_NAMED
    margin = TITLE_HEIGHT + (max(map(len, shown_names), default=0) * LETTER if are_named else 0)
    cells = [
        _cell(margin, row, column, float(shares[column, row]), title)
        for row, true in enumerate(shown_names)
        for column, own in enumerate(shown_names)
        if shown[column, row]
        for title in [f"true {true}, predicted {own}: {shown[column, row]:,} {unit} ({shares[column, row]:.1%})"]
    ]
    side = margin + len(occurring) * CELL
    frame = element("rect", x=margin, y=margin, width=side - margin, height=side - margin, class_="frame")
    return element(
        "svg",
        element("title", f"Shares of the {unit} of each true class"),
        frame,
        *cells,
        *(_names(shown_names, margin) if are_named else []),
        *_axis_titles(margin, side),
        viewBox=f"0 0 {side:g} {side:g}",
        role="img",
        class_="confusion",
        style=f"max-width: {side:g}px",
    )


def _cell(margin: float, row: int, column: int, share: float, title: str) -> Markup:
    opacity = f"{share**0.5:.2f}"  # The root keeps rare cases visible.
    kind = "right" if row == column else "wrong"
    place = {"x": margin + column * CELL, "y": margin + row * CELL}
    return element("rect", element("title", title), **place, width=CELL, height=CELL, fill_opacity=opacity, class_=kind)


def _names(names: Sequence[str], margin: float) -> list[Markup]:
    parts = []
    for index, name in enumerate(names):
        middle = margin + (index + 0.5) * CELL
        parts.append(element("text", name, x=margin - 6, y=middle + 5, text_anchor="end", class_="name"))
        turned = f"translate({middle + 5:g} {margin - 6:g}) rotate(-90)"
        parts.append(element("text", name, transform=turned, class_="name"))
    return parts


def _axis_titles(margin: float, side: float) -> list[Markup]:
    middle = (margin + side) / 2
    return [
        element("text", "predicted", x=middle, y=FONT_SIZE, text_anchor="middle"),
        element("text", "true", transform=f"translate({FONT_SIZE} {middle:g}) rotate(-90)", text_anchor="middle"),
    ]
