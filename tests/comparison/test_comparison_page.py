"""The page of a comparison: what it holds, how it sorts, its tables, and its script in a browser."""

from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from page_samples import CAR, SKY, segments
from PIL import Image

from panoptic_segformer.comparison.oracle import ORACLES
from panoptic_segformer.comparison.page import write_page
from panoptic_segformer.comparison.page.chart import quality_chart
from panoptic_segformer.comparison.page.rows import Row, row_orders
from panoptic_segformer.comparison.page.tables import MEASURED, measured_table, oracle_table, published_table
from panoptic_segformer.comparison.results import Comparison, ModelResult, Picture, Prediction

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EMPTY_ELEMENTS = {"meta", "img", "br", "col"}
EVIL = "<script>alert(\"1\")</script> & 'x'"


class Document(HTMLParser):
    """A parsed page: its elements in order; ends and beginnings must meet."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, name, attributes):
        names = [key for key, _ in attributes]
        assert len(names) == len(set(names)), f"repeated attributes of {name}: {names}"
        self.elements.append((name, dict(attributes)))
        if name not in EMPTY_ELEMENTS:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        self.texts.append(text)

    def all(self, name):
        return [attributes for element_name, attributes in self.elements if element_name == name]


def halves(share):
    """A car on the left share of the picture, sky on the rest."""
    ids = np.full((60, 80), 2, np.int32)
    ids[:, : round(80 * share)] = 1
    return Prediction(ids, segments(CAR, SKY))


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of noise, one with a name that is dangerous in html."""
    rng = np.random.default_rng(0)
    found = []
    for index, name in enumerate(["b", "a", EVIL]):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(path)
        found.append(Picture(path, name))
    return found


@pytest.fixture
def comparison(pictures):
    """Two models that work, one of them not on every picture, and one that failed."""
    return Comparison(
        EVIL,
        pictures,
        [CAR, SKY],
        [
            ModelResult(
                "first",
                note=EVIL,
                qualities={"PQ": 40.04, "SQ": math.nan},
                costs={"latency_ms": 12.0, "parameters": 2e6},
                facts={"config": EVIL},
                picture_qualities={"b": 10.0, "a": 30.0, EVIL: 20.0},
                published={"PQ": 49.6, "source": EVIL},
                oracles={"class": 45.5},
            ),
            ModelResult(
                EVIL,
                qualities={"PQ": 50.0},
                costs={"latency_ms": 15.0, "parameters": 1e6},
                picture_qualities={"b": 9.0, EVIL: 1.0},
            ),
            ModelResult("broken", error=EVIL),
        ],
        {"machine": EVIL},
    )


def prediction_of(model, picture):
    """Disagreement: 25 % on b, unknown on a, 50 % on the evil name."""
    if model == "first":
        return halves(0.5)
    if picture.name == "a":
        raise KeyError(picture.name)
    return halves({"b": 0.75, EVIL: 1.0}[picture.name])


def truth_of(picture):
    return halves(0.5)


@pytest.fixture
def page(comparison, tmp_path):
    return write_page(comparison, tmp_path / "page", prediction_of, truth_of)


@pytest.fixture
def document(page):
    return Document(page.read_text(encoding="utf-8"))


def test_page_has_all_its_pictures_and_nothing_from_elsewhere(page, document):
    images = [image for image in document.all("img") if "src" in image]
    files = [page.parent / image["src"] for image in images]
    assert len(files) == 3 * 5 - 2  # On "a" one model has no prediction, hence there is no map either.
    files += [page.parent / link["href"] for link in document.all("a") if "img" not in link and "#" not in link["href"]]
    assert {path.name for path in files} == {path.name for path in (page.parent / "pictures").iterdir()}
    for image in images:
        with Image.open(page.parent / image["src"]) as thumbnail:
            assert thumbnail.size == (int(image["width"]), int(image["height"]))
        assert image["loading"] == "lazy"
    assert not document.all("link")
    assert not [one for one in document.all("script") if one]
    assert not re.search(r"@import|url\(", page.read_text(encoding="utf-8"))


def test_page_says_in_words_what_pictures_show(document):
    texts = [image["alt"] for image in document.all("img") if "src" in image]
    assert "first, b: 1 car, sky" in texts
    assert f"Truth, {EVIL}: 1 car, sky" in texts
    assert all(texts)


def test_page_escapes_every_text(document):
    assert len(document.all("script")) == 1, "a script from a name"
    text = " ".join(document.texts)
    # Title and heading, machine, note, config, source, error in the table and below, model in a table and below, ...
    assert text.count(EVIL) >= 10


def test_page_shows_a_missing_prediction_and_a_failed_model_in_words(document):
    assert document.texts.count("No prediction: the model failed on this picture.") == 1
    assert document.texts.count("No map: fewer than two models have a prediction.") == 1
    assert any("No pictures, as they failed: broken." in text for text in document.texts)
    assert not any(image.get("alt", "").startswith("broken") for image in document.all("img"))


def test_page_sorts_by_disagreement_and_knows_the_other_orders(document):
    buttons = [button for button in document.all("button") if "data-order" in button]
    pressed = [button["aria-pressed"] for button in buttons]
    assert pressed == ["true", "false", "false", "false"]
    places = [row["data-places"].split() for row in document.all("li")]
    # Rows as they stand: the evil name (50 %), b (25 %), a (unknown). Orders: disagreement, PQ of both models, name.
    assert places == [["0", "1", "0", "0"], ["1", "0", "1", "2"], ["2", "2", "2", "1"]]
    (group,) = [one for one in document.all("div") if one.get("id") == "orders"]
    assert "hidden" in group, "without the script the buttons do nothing"


def test_page_without_truth_and_with_one_model_has_neither_map_nor_quality(comparison, tmp_path):
    alone = Comparison("", comparison.pictures, comparison.categories, [ModelResult("first")])
    page = write_page(alone, tmp_path, prediction_of, lambda picture: None)
    document = Document(page.read_text(encoding="utf-8"))
    titles = {image["alt"].partition(",")[0] for image in document.all("img") if "src" in image}
    assert titles == {"Input", "first"}
    assert len([button for button in document.all("button") if "data-order" in button]) == 1  # By name.


@pytest.mark.parametrize("models", [[], [ModelResult("broken", error="no weights")]])
def test_page_of_no_working_model_is_still_a_page(comparison, tmp_path, models):
    page = write_page(
        Comparison("t", comparison.pictures, comparison.categories, models), tmp_path, prediction_of, truth_of
    )
    assert Document(page.read_text(encoding="utf-8")).all("h1")


def test_page_of_no_picture_is_still_a_page(comparison, tmp_path):
    page = write_page(Comparison("t", [], [CAR], comparison.models), tmp_path, prediction_of, truth_of)
    assert not Document(page.read_text(encoding="utf-8")).all("li")


def test_page_stays_as_it_was_if_a_prediction_does_not_fit(comparison, page):
    before = page.read_bytes()
    small = Prediction(np.ones((6, 8), np.int32), segments(CAR))
    with pytest.raises(ValueError, match=r"segments of first for b have \(height, width\) \(6, 8\), .* \(60, 80\)"):
        write_page(comparison, page.parent, lambda model, picture: small, truth_of)
    with pytest.raises(ValueError, match="segments of the truth for b"):
        write_page(comparison, page.parent, prediction_of, lambda picture: small)
    assert page.read_bytes() == before
    assert {path.name for path in page.parent.iterdir()} == {"index.html", "pictures"}


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to run the page's script")
def test_script_sorts_rows_and_shows_tiles_in_a_browser(page):
    steps = """<script>
      const log = [], note = () => log.push(document.getElementById("viewer-caption").textContent.split(":")[0]);
      const press = (key) => { viewer.dispatchEvent(new KeyboardEvent("keydown", { key })); note(); };
      document.querySelector('[data-order="1"]').click();  // PQ of the first model: b, the evil name, a.
      document.querySelector("#rows a").click(); note();
      press("ArrowRight"); press("ArrowDown"); press("ArrowLeft"); press("ArrowUp"); press("ArrowUp");
      viewer.querySelector("[data-close]").click(); log.push(viewer.open, orders.hidden);
      document.title = log.join("; ");
    </script></body>"""
    changed = page.with_name("changed.html")
    changed.write_text(page.read_text(encoding="utf-8").replace("</body>", steps), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    command = [CHROMIUM, *options, f"--user-data-dir={page.parent / 'profile'}", changed.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    title = html.unescape(re.search("<title>(.*)</title>", dom)[1])
    assert title == f"Input, b; Truth, b; Truth, {EVIL}; Input, {EVIL}; Input, b; Input, b; false; false"


def test_measured_table_marks_the_best_by_more_than_colour(comparison):
    text = measured_table(comparison.models)
    assert text.count("★") == 3  # PQ, parameters, latency.
    best = re.findall(r'aria-label="best"[^>]*>★</span>([\d.]+)<', text)
    assert best == ["12.0", "50.0", "1.0"]
    assert "GFLOPs" not in text, "nobody's FLOPs are known"
    assert ">SQ<" not in text, "nan is no number"
    assert 'colspan="3"><p><strong>Failed: ' in text


def test_measured_table_marks_equal_numbers_alike_and_none_where_all_are_equal():
    models = [ModelResult(str(index), qualities={"PQ": value}) for index, value in enumerate([50.01, 49.99, 40])]
    assert measured_table(models).count("★") == 2
    assert measured_table(models[:2]).count("★") == 0


def test_published_figures_stand_apart_with_their_source(comparison):
    measured, published = measured_table(comparison.models), published_table(comparison.models)
    assert "49.6" not in measured
    assert "49.6" in published
    assert "40.0" not in published
    assert "Source" in published
    assert published_table([ModelResult("none")]) is None
    linked = published_table([ModelResult("a", published={"PQ": 1.0, "source": "https://x.org/?a=1&b"})])
    assert '<a href="https://x.org/?a=1&amp;b">' in linked
    assert "href" not in published_table([ModelResult("a", published={"PQ": 1.0, "source": "javascript:alert(1)"})])


def test_oracle_table_shows_what_is_gained(comparison):
    assert "45.5 <small>+5.5</small>" in oracle_table(comparison.models)
    assert oracle_table(comparison.models[1:]) is None
    assert "<small>" not in oracle_table([ModelResult("no PQ", oracles={"mask": 20.0})])


def test_orders_put_missing_numbers_last_and_leave_out_what_is_not_known():
    rows = [
        Row("x", [], math.nan, {"m": math.nan, "none": math.nan}, frozenset()),
        Row("z", [], 5.0, {"m": 80.0, "none": math.nan}, frozenset()),
        Row("y", [], 9.0, {"m": 70.0, "none": math.nan}, frozenset()),
    ]
    assert {order.title: order.places for order in row_orders(rows)} == {
        "most disagreement": [2, 1, 0],
        "least PQ of m": [2, 1, 0],
        "name": [0, 2, 1],
    }


def test_chart_needs_two_models_and_places_the_better_higher_and_the_faster_left(comparison):
    assert quality_chart(comparison.models[:1]) is None
    chart = quality_chart(comparison.models)
    Document(chart)
    (x, y), (slower_x, better_y) = (
        map(float, found) for found in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart)
    )
    assert x < slower_x
    assert better_y < y


def test_one_true_instance_has_one_colour_over_models(comparison, page):
    for row in ("0001", "0003"):
        drawings = [
            np.asarray(Image.open(page.parent / f"pictures/{row}_{who}_small.jpg")) for who in ("truth", "model_1")
        ]
        np.testing.assert_array_equal(*drawings)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to lay the page out")
def test_wide_tables_fit_a_window_of_1400_pixels(comparison, tmp_path):
    """Every column has its longest number, and a star."""
    keys = [column.key for column in MEASURED if column.more_is_better]
    costs = {"parameters": 234.5e6, "flops": 1234.5e9, "peak_memory": 12345e6}
    models = [
        ModelResult(
            name,
            qualities=dict.fromkeys(keys, quality),
            costs={**costs, "latency_ms": slow, "latency_p90_ms": slow},
            oracles=dict.fromkeys(ORACLES, quality),
        )
        for name, quality, slow in (
            ("Panoptic SegFormer (make demo)", 48.9, 1234.5),
            ("Panoptic-DeepLab", 47.1, 4321.0),
        )
    ]
    page = write_page(Comparison("t", [], [CAR], models), tmp_path / "page", prediction_of, truth_of)
    script = (
        "<script>document.title = [...document.querySelectorAll('.scroller')]"
        ".map((one) => one.scrollWidth - one.clientWidth).join()</script></body>"
    )
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search("<title>(.*)</title>", dom)[1] == "0,0"
