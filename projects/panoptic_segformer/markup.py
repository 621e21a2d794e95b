"""Html elements as plain functions; text is escaped unless it comes from here.

Names, notes and errors are the user's words: that they cannot become markup must not depend on anyone's memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

__all__ = ["NONE", "Markup", "element", "join", "number", "table"]

# Stands where there is no number.
NONE = "\N{EN DASH}"
# Elements that have neither content nor an end tag.
_EMPTY_ELEMENTS = frozenset({"br", "col", "img"})


class Markup(str):
    """Text that is html already."""

    __slots__ = ()


def element(name: str, *content: str, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        name: of the element.
        content: elements, and texts, which are escaped.
        attributes: by name; `_` stands for `-`, and a final one is dropped (`class_`). True gives an attribute
            without a value, None and False give none.
    """
    start = Markup(name + "".join(_attribute(key, value) for key, value in attributes.items()))
    if name in _EMPTY_ELEMENTS:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{join(content)}</{name}>")


def join(parts: Iterable[str], separator: str = "") -> Markup:
    """Return parts, elements or texts, one after the other."""
    return Markup(separator.join(part if isinstance(part, Markup) else escape(part) for part in parts))


def number(value: float | None, decimals: int = 1) -> str:
    """Return a number as text, `NONE` for None and nan."""
    return NONE if value is None or math.isnan(value) else f"{value:,.{decimals}f}"


def table(caption: str, *content: Markup) -> Markup:
    """Return a table with a caption; content are its column groups, head and body."""
    # Wide tables scroll within themselves, which keyboards can do only if they can get there.
    inner = element("table", element("caption", caption), *content)
    return element("div", inner, class_="scroller", role="region", aria_label=caption, tabindex=0)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
