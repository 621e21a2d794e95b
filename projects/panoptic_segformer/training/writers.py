"""Where the figures of a training go: console, metrics.json and TensorBoard, none of which may end it.

A disk that is full, or a folder that is gone, costs figures and a message. Figures of iterations that are done again
replace the earlier ones.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from ..writing import whole_file
from .reporting import LOSSES, SEGMENTS

__all__ = ["Console", "SurvivingWriter", "build_writers", "keep_metrics_before"]

METRICS_FILE = "metrics.json"
# Iterations whose median is shown, as Detectron2 has it.
WINDOW = 20
# Scalars of the console's line behind the losses: name in the storage, and how it is shown.
SHOWN = {
    "grad_norm": "grad_norm: {:.4g}",
    "pictures_per_second": "pictures/s: {:.3g}",
    "data_share": "data: {:.0%}",
    "lr": "lr: {:.5g}",
    "memory_mb": "max_mem: {:.0f}M",
}
# After failures in a row, twice as many writes are left out each time, up to this number: tries cost time and files.
LONGEST_PAUSE = 63

logger = logging.getLogger(__name__)


def build_writers(output_dir: str, max_iter: int, first_iteration: Callable[[], int]) -> list[EventWriter]:
    """Return the writers of a training; those of files are opened when they first write.

    Args:
        output_dir: a folder, which receives metrics.json and TensorBoard's files.
        max_iter: iterations of the whole training.
        first_iteration: tells where the training started, or was resumed, once that is known.
    """

    def open_metrics() -> EventWriter:
        path = Path(output_dir) / METRICS_FILE
        keep_metrics_before(path, first_iteration())
        return JSONWriter(str(path), WINDOW)

    def open_tensorboard() -> EventWriter:
        return _Tensorboard(output_dir, WINDOW, purge_step=first_iteration())

    return [
        Console(max_iter, WINDOW),
        SurvivingWriter(f"{output_dir}/{METRICS_FILE}", open_metrics),
        SurvivingWriter(f"TensorBoard's file in {output_dir}", open_tensorboard),
    ]


def keep_metrics_before(path: Path, iteration: int) -> None:
    """Remove what a metrics.json tells of an iteration and those after it, which are about to be done again.

    A line that was cut short goes, too. At the start of a training, iteration 0, an earlier one's file is put aside
    under a new name, metrics_1.json and so on.
    """
    if not path.exists():
        return
    if iteration == 0:
        names = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        path.rename(aside)
        logger.info("%s is of an earlier training: it is %s now", path, aside)
        return
    with whole_file(path) as partial, path.open(encoding="utf-8") as lines, partial.open("w", encoding="utf-8") as kept:
        kept.writelines(line for line in lines if _is_before(line, iteration))


class SurvivingWriter(EventWriter):
    """A writer whose failures are logged once, when they begin and when they end; it tries on, less and less often."""

    def __init__(self, what: str, open_writer: Callable[[], EventWriter]) -> None:
        """Keep what the writer writes, for messages, and how to get it; nothing is opened yet."""
        self._what = what
        self._open_writer = open_writer
        self._writer: EventWriter | None = None
        self._failures = 0  # in a row
        self._pause = 0  # writes to leave out

    def write(self) -> None:
        """Write what is new, if possible."""
        if self._pause:
            self._pause -= 1
            return
        try:
            if self._writer is None:
                self._writer = self._open_writer()
            self._writer.write()
        except OSError as error:
            if not self._failures:
                logger.error("%s can't be written (%s): training goes on without these figures", self._what, error)
            self._failures += 1
            self._pause = min(2**self._failures - 1, LONGEST_PAUSE)
        else:
            if self._failures:
                logger.warning("%s can be written again", self._what)
            self._failures = 0

    def close(self) -> None:
        """Write what was left out, if possible, and close the writer, if there is one."""
        if self._failures:
            self._pause = 0
            self.write()
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            logger.error("%s can't be closed (%s): its last figures may be missing", self._what, error)


class Console(CommonMetricPrinter):
    """Prints one short line: sums of losses by term, where Detectron2's printer has those of all layers."""

    def write(self) -> None:
        """Print the figures that there are; nothing after the last iteration, when only results are new."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        sums = {f"{LOSSES}{term}": f"{term}: {{:.4g}}" for term in _terms(storage)}
        words = [f"eta: {self._get_eta(storage)}", f"iter: {storage.iter}"]
        for name, form in ({"total_loss": "total_loss: {:.4g}"} | sums | SHOWN).items():
            if name in storage.histories():
                words.append(form.format(_median(storage, name, self._window_size)))
        self.logger.info("  ".join(words))


class _Tensorboard(TensorboardXWriter):
    """Opens a new file after a failure: the thread that writes ends with its first one."""

    def write(self) -> None:
        """Write what is new. Raises: OSError: if that fails, and what was new is lost."""
        try:
            super().write()
            self._writer.flush()
        except OSError:
            if self.__dict__.pop("_writer", None) is not None:
                self._writer_args["purge_step"] = None  # it would hide what has been written meanwhile
            storage = get_event_storage()
            storage.clear_images()
            storage.clear_histograms()
            raise


def _terms(storage: EventStorage) -> list[str]:
    """Return the terms that losses are summed by, without things and stuff, which are sums of the same."""
    names = (name.removeprefix(LOSSES) for name in storage.histories() if name.startswith(LOSSES))
    return [name for name in names if name not in SEGMENTS.values()]


def _median(storage: EventStorage, scalar: str, window: int) -> float:
    """Return a scalar's median over the last iterations, or its last value where it is not to be smoothed."""
    history = storage.history(scalar)
    is_noisy = storage.smoothing_hints()[scalar]
    return history.median(storage.count_samples(scalar, window)) if is_noisy else history.latest()


def _is_before(line: str, iteration: int) -> bool:
    try:
        return json.loads(line)["iteration"] < iteration
    except (ValueError, TypeError, KeyError):
        return False
