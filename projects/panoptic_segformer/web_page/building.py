"""Build the page: a picture in, its segments out, and what is shown of them.

The network runs once per picture; drawing and least score redraw what it found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.reading import read_picture
from ..inference.result import PanopticResult
from ..optional import import_optional
from .view import DRAWINGS, NAMED, for_display, view_markup

__all__ = ["build_page", "read_upload"]

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio looks at each event: the page tells nobody that it is used.
gr = import_optional("gradio", "page")

# Of a picture that is taken.
MOST_PIXELS = 50_000_000
_TOO_LARGE = f"The picture has more than {MOST_PIXELS // 1_000_000} million pixels: make it smaller."
_UNREADABLE = "This file can't be read as a picture: try a JPEG, PNG, WebP, BMP or TIFF file that is not damaged."
# Requests that wait for the network; more are refused at once.
QUEUE_LENGTH = 16

# The file of a picture, and what was found in it.
Found = tuple[str, PanopticResult]


def build_page(
    predictor: Callable[[np.ndarray], PanopticResult],
    *,
    title: str = "Panoptic SegFormer",
    examples: Sequence[Path] = (),
) -> gr.Blocks:
    """Return the page, not yet served.

    Args:
        predictor: a `PanopticPredictor`, or what else gives the result of a picture (H, W, 3) uint8 RGB.
        title: heading of the page.
        examples: pictures to choose from.
    """

    def predict(path: str | None) -> Found | None:
        if path is None:
            return None
        try:
            return path, for_display(predictor(read_upload(path)))
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise gr.Error(
                "The memory does not suffice for this picture: make it smaller.", print_exception=False
            ) from error

    def draw(found: Found | None, path: str | None, drawing: str, least_score: float) -> str:
        # Nothing is to stand beside the next picture that was found in the one before.
        return view_markup(found[1], drawing, least_score) if found and found[0] == path else ""

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        found = gr.State()
        gr.Markdown(f"# {title}")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                picture = gr.Image(label="Picture", type="filepath", sources=["upload", "clipboard"], elem_id="picture")
                # gradio would open the file, and raise what Pillow says of files that are no pictures.
                picture.preprocess = _uploaded_file
                drawing = gr.Radio([*DRAWINGS], value=NAMED, label="Drawing", elem_id="drawing")
                least_score = gr.Slider(
                    0, 1, 0, step=0.01, label="Least score", info="Segments below it are hidden.", elem_id="least-score"
                )
                if examples:
                    gr.Examples([str(path) for path in examples], picture, label="Synthetic scenes")
            with gr.Column(scale=2, min_width=480):
                view = gr.HTML(
                    css_template=_asset("view.css"),
                    js_on_load=_asset("view.js"),
                    apply_default_css=False,
                    elem_id="view",
                )
        shown = [found, picture, drawing, least_score]
        # What comes while gradio is busy waits its turn, the last alone; without this word it would be forgotten.
        quiet = {"show_progress": "hidden", "trigger_mode": "always_last"}
        cleared = picture.change(lambda: (None, ""), outputs=[found, view], **quiet)
        predicted = cleared.then(
            predict, picture, found, concurrency_limit=1, show_progress_on=view, trigger_mode="always_last"
        )
        # Settings are read when the network is done: they may have changed while it ran.
        predicted.success(draw, shown, view, **quiet)
        for setting in (drawing, least_score):
            setting.change(draw, shown, view, **quiet)
    return page.queue(max_size=QUEUE_LENGTH)


def read_upload(path: str | Path) -> np.ndarray:
    """Return an uploaded picture (H, W, 3) uint8 RGB, its EXIF rotation applied.

    Raises: ValueError: if it is no picture, or has more than `MOST_PIXELS`; in words for who uploaded it.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except Image.DecompressionBombError as error:
        raise ValueError(_TOO_LARGE) from error
    # Pillow raises all of these on files that are no pictures or damaged.
    except (OSError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(_UNREADABLE) from error
    if width * height > MOST_PIXELS:
        raise ValueError(_TOO_LARGE)
    try:
        return read_picture(path, "RGB")
    except ValueError as error:  # Its words are for those who own the file's folder.
        raise ValueError(_UNREADABLE) from error


def _uploaded_file(payload: Any) -> str | None:
    """Return the path of what gradio received for a picture, None if it was taken away."""
    return None if payload is None else payload.path


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
