from __future__ import annotations

import math

from panoptic_segformer.markup import Markup, element, join, number


def test_elements_escape_texts_and_attributes_but_not_elements():
    inner = element("b", "<i>", title='"&')
    assert inner == '<b title="&quot;&amp;">&lt;i&gt;</b>'
    assert element("p", inner, "a & b", class_="c", data_x=1, hidden=True, id=None) == (
        f'<p class="c" data-x="1" hidden>{inner}a &amp; b</p>'
    )
    assert element("img", alt="") == '<img alt="">'
    assert join([inner, "<"]) == f"{inner}&lt;"
    assert isinstance(join([]), Markup)


def test_numbers_have_a_sign_for_none():
    assert number(1234.56) == "1,234.6"
    assert number(None) == number(math.nan) == "\N{EN DASH}"
