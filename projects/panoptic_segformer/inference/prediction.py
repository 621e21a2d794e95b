"""Predict files: pictures, videos and cameras in, drawings and predictions out.

A batch is held at a time, so folders and videos of any length fit into memory; a broken file does not stop the rest.
Shape legend: H, W size of a picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..visualization import write_picture
from .predictor import as_pixels
from .result import PanopticResult
from .sources import output_files, output_names, output_suffix
from .video import open_frames, write_video

__all__ = ["Drawing", "DrawingSaver", "Saver", "predict_files", "predict_video"]

logger = logging.getLogger(__name__)

Predictor = Callable[[list[np.ndarray]], list[PanopticResult]]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Drawing:
    """A way to draw results, and where the drawings go; see `PanopticResult.overlay`."""

    style: str
    folder: Path
    labels: bool = True
    legend: bool = True

    def draw(self, result: PanopticResult) -> np.ndarray:
        """Return the drawing, (H', W', 3) uint8 RGB."""
        return result.overlay(self.style, labels=self.labels, legend=self.legend)


class Saver(Protocol):
    """Keeps results as files."""

    def add(self, file: Path, name: str, result: PanopticResult) -> None:
        """Keep the result of a picture file under a name that no other file has."""


class DrawingSaver:
    """Writes a drawing per picture."""

    def __init__(self, drawing: Drawing, files: Sequence[Path]) -> None:
        """Make the folder.

        Raises: ValueError: if a drawing would replace one of the files.
        """
        output_files(files, drawing.folder)
        drawing.folder.mkdir(parents=True, exist_ok=True)
        self.drawing = drawing

    def add(self, file: Path, name: str, result: PanopticResult) -> None:
        """Write the drawing of a picture file."""
        write_picture(self.drawing.draw(result), self.drawing.folder / f"{name}{output_suffix(file)}")


def predict_files(
    predictor: Predictor,
    files: Sequence[Path],
    savers: Sequence[Saver],
    batch_size: int = 1,
    show_progress: bool = True,
) -> dict[Path, str]:
    """Give the results of picture files to savers and return the files that are left out, each with the reason.

    Those are the files that can't be read, those that the predictor refuses with a ValueError, and those for which
    the GPU has too little memory even one by one.

    Args:
        predictor: takes a list of (H, W, 3) uint8 RGB, as PanopticPredictor does.
        files: pictures.
        savers: keep the results.
        batch_size: pictures that are read and predicted together.
        show_progress: whether a bar is drawn.
    """
    left_out: dict[Path, str] = {}

    def leave_out(file: Path, error: Exception) -> None:
        logger.error("%s is left out: %s", file, error)
        left_out[file] = str(error)

    with _progress(len(files), "picture", show_progress) as progress:
        for batch in _batches(zip(files, output_names(files), strict=True), batch_size):
            read: list[tuple[Path, str, np.ndarray]] = []
            for file, name in batch:
                try:
                    read.append((file, name, as_pixels(file)))
                except (FileNotFoundError, ValueError) as error:
                    leave_out(file, error)
            outcomes = _outcomes(predictor, [image for *_, image in read])
            for (file, name, _), outcome in zip(read, outcomes, strict=True):
                if isinstance(outcome, ValueError):
                    leave_out(file, outcome)
                    continue
                for saver in savers:
                    saver.add(file, name, outcome)
            progress.update(len(batch))
    return left_out


def _outcomes(predictor: Predictor, images: list[np.ndarray]) -> list[PanopticResult | ValueError]:
    """Return the result of each picture, or why the predictor refuses it."""
    if not images:
        return []
    try:
        return predictor(images)
    except (ValueError, torch.OutOfMemoryError) as error:
        if len(images) == 1:
            return [ValueError(str(error))]
    return [outcome for image in images for outcome in _outcomes(predictor, [image])]


def predict_video(
    predictor: Predictor,
    source: Path | int,
    outputs: Sequence[tuple[Drawing, Path]],
    batch_size: int = 1,
    max_frames: int | None = None,
) -> int:
    """Write drawings of a video's or camera's frames as videos of its frame rate; return the number of frames.

    A camera runs until `max_frames` or Ctrl-C. Frames have no legend, and the size of the video's.

    Args:
        predictor: as `predict_files` takes it.
        source: file, or number of a camera.
        outputs: drawings and the MP4 file of each; their folders must exist.
        batch_size: frames that are predicted together.
        max_frames: where to stop.
    Raises: FileNotFoundError: if there is no such video or camera. ValueError: if it can't be read, or has no frame;
        nothing is written then.
    """
    number = 0
    with open_frames(source) as frames, ExitStack() as stack:
        writers = [(drawing, stack.enter_context(write_video(path, frames.rate))) for drawing, path in outputs]
        total = min((one for one in (frames.number, max_frames) if one is not None), default=None)
        is_camera = isinstance(source, int)
        with _progress(total, "frame") as progress, suppress(*[KeyboardInterrupt] * is_camera):
            for batch in _batches(islice(frames.pixels, max_frames), batch_size):
                for result in predictor(batch):
                    for drawing, writer in writers:
                        writer.add(drawing.draw(result))
                    number += 1
                    progress.update()
    return number


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


@contextmanager
def _progress(total: int | None, unit: str, is_shown: bool = True) -> Iterator[tqdm]:
    """Show how many are done and how many a second, with messages of the log above."""
    own_log = logging.getLogger(__package__.partition(".")[0])
    with logging_redirect_tqdm([own_log]), tqdm(total=total, unit=f" {unit}s", disable=not is_shown) as progress:
        yield progress
