"""Write the page of a finished comparison: first its pictures, then, in one piece, the page that shows them.

The page is one html file with style and script inside. It works from a disk, loads nothing from elsewhere, and
without the script only sorting and enlarging in place are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

from tqdm import tqdm

from ...markup import Markup, element, join
from ...writing import whole_file
from ..results import Comparison, ModelResult, PredictionOf, TruthOf
from .chart import quality_chart
from .pictures import FOLDER, class_legend, order_buttons, picture_rows
from .rows import Row, RowMaker, row_orders
from .tables import measured_table, oracle_table, published_table

__all__ = ["write_page"]

NO_TITLE = "Comparison"


def write_page(comparison: Comparison, output_dir: Path, prediction_of: PredictionOf, truth_of: TruthOf) -> Path:
    """Write output_dir/index.html and the pictures it shows, in output_dir/pictures, and return the page's path.

    Args:
        comparison: finished.
        output_dir: made if it is missing. Pictures of an earlier page are replaced, other files stay.
        prediction_of: gives the prediction of a model (by name) for a picture, in the picture's size and the
            dataset's category ids; KeyError stands for a picture that the model failed on. Not called for models
            with an error.
        truth_of: gives the truth of a picture, or None.

    Raises: FileNotFoundError, ValueError: if a picture can't be read, or truth or a prediction does not fit it. An
        earlier page then stays, with those of its pictures replaced that were already drawn.
    """
    folder = output_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    maker = RowMaker(comparison, folder, prediction_of, truth_of)
    rows = [maker.make(index) for index in tqdm(range(len(comparison.pictures)), "page", unit="picture", disable=None)]
    page = output_dir / "index.html"
    with whole_file(page) as partial:
        partial.write_text(_page(comparison, rows), encoding="utf-8")
    return page


def _page(comparison: Comparison, rows: Sequence[Row]) -> str:
    orders = row_orders(rows)
    return Template(_asset("page.html")).substitute(
        title=element("title", comparison.title or NO_TITLE),
        style=_asset("page.css"),
        script=_asset("page.js"),
        heading=element("h1", comparison.title or NO_TITLE),
        facts=_facts({**comparison.facts, "pictures": str(len(comparison.pictures))}),
        figures=_figures(comparison.models),
        models=join(_model(model) for model in comparison.models),
        explanation=_explanation(comparison.models),
        legend=class_legend(comparison.categories, rows),
        orders=order_buttons(orders),
        rows=picture_rows(rows, orders),
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _facts(facts: Mapping[str, str]) -> Markup:
    entries = [element("div", element("dt", name), element("dd", fact)) for name, fact in facts.items()]
    return element("dl", *entries, class_="facts")


def _figures(models: Sequence[ModelResult]) -> Markup:
    """Return tables and chart."""
    chart = quality_chart(models)
    if chart is not None:
        chart = element("figure", chart, element("figcaption", "Quality against time: the upper left is best."))
    tables = []
    oracle = oracle_table(models)
    if oracle is not None:
        words = "What PQ would be if the truth replaced one part of every prediction, and what that gains."
        tables += [oracle, element("p", words, class_="remark")]
    published = published_table(models)
    if published is not None:
        words = "Figures that others report. Their machines, pictures and rules differ: do not compare across tables."
        tables += [published, element("p", words, class_="remark")]
    further = element("div", chart or "", element("div", *tables), class_="further")
    return join([measured_table(models), further])


def _model(model: ModelResult) -> Markup:
    parts = [element("h3", model.name)]
    if model.note:
        parts.append(element("p", model.note))
    if model.error:
        parts.append(element("p", "Failed: ", model.error, class_="error"))
    if model.facts:
        parts.append(element("details", element("summary", "Facts"), _facts(model.facts)))
    return element("article", *parts)


def _explanation(models: Sequence[ModelResult]) -> Markup:
    """Return how to read the rows."""
    working = [model.name for model in models if not model.error]
    failed = [model.name for model in models if model.error]
    sentences = ["A class has one colour in all pictures, and instances that match share a shade of it."]
    if len(working) > 1:
        sentences.append(
            "The disagreement map is brighter the more pairs of models see another class, or another instance "
            "(IoU of at most one half), at a point; its mean is the disagreement of the picture."
        )
    if failed:
        sentences.append(f"No pictures, as they failed: {', '.join(failed)}.")
    return element("p", " ".join(sentences), class_="remark")
