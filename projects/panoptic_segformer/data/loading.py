"""The loader of a training: read in several processes, in an order that a continued training keeps.

What becomes of a picture depends on the seed and its place in the order alone, so not on how many processes read.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.build import _train_loader_from_config, trivial_batch_collator
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..seeding import seeded
from .datasets import tolerate_missing_files
from .order import BatchOrder, Place

__all__ = ["Example", "TrainingLoader", "build_training_loader"]

logger = logging.getLogger(__name__)

# Values of DATALOADER.BROKEN_PICTURES.
STOP, SKIP = "stop", "skip"
# So many broken pictures one after the other are not bad luck: a folder is gone, or a disk.
MOST_TRIES = 20

# What a mapper makes of a dataset dict.
Example = dict[str, Any]


@dataclass(frozen=True)
class BrokenPicture:
    """A picture that was left out: its file, and what is wrong."""

    file_name: str
    reason: str


class TrainingLoader:
    """Endless batches (lists of examples) of one process."""

    def __init__(self, loader: DataLoader, order: BatchOrder) -> None:
        """Take torch's loader, whose items are pairs of an example and the pictures it stands for, and its order."""
        self._loader, self._order = loader, order
        self._known_files: set[str] = set()

    @property
    def start(self) -> int:
        """Number of the batch that an iteration starts with; set it before."""
        return self._order.start

    @start.setter
    def start(self, number: int) -> None:
        self._order.start = number

    @property
    def num_broken(self) -> int:
        """Number of different pictures that were left out so far."""
        return len(self._known_files)

    def __iter__(self) -> Iterator[list[Example]]:
        """Yield batches; each broken picture that is left out is logged once.

        Raises: what the mapper raises. RuntimeError: if a loader process was killed, or does not answer.
        """
        for batch in self._loader:
            for _, broken in batch:
                self._report(broken)
            yield [example for example, _ in batch]

    def _report(self, pictures: list[BrokenPicture]) -> None:
        for picture in pictures:
            if picture.file_name not in self._known_files:
                self._known_files.add(picture.file_name)
                logger.warning(
                    "left out broken picture number %d, %s: %s", self.num_broken, picture.file_name, picture.reason
                )


def build_training_loader(cfg: CfgNode, mapper: Callable[[Example], Example], seed: int) -> TrainingLoader:
    """Return the loader of DATASETS.TRAIN, in the order of DATALOADER.SAMPLER_TRAIN and its grouping.

    Args:
        cfg: the config; SOLVER.IMS_PER_BATCH pictures are shared out to the processes.
        mapper: makes an example of a dataset dict.
        seed: of order and augmentation, the same in all processes.

    Raises: ValueError: if the batch does not divide among the processes, or a key has an unknown value.
    """
    batch, ranks = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if batch % ranks:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch}, which {ranks} processes can't share: make it a multiple")
    if cfg.DATALOADER.BROKEN_PICTURES not in (STOP, SKIP):
        raise ValueError(
            f"DATALOADER.BROKEN_PICTURES is {cfg.DATALOADER.BROKEN_PICTURES!r}: set it to {STOP!r} or {SKIP!r}"
        )
    skips_broken = cfg.DATALOADER.BROKEN_PICTURES == SKIP
    # Some of Detectron2's samplers draw their own seed.
    with seeded(seed), tolerate_missing_files() if skips_broken else nullcontext():
        parts = _train_loader_from_config(cfg, mapper)
    dicts = parts["dataset"]
    shapes = [entry["width"] > entry["height"] for entry in dicts] if parts["aspect_ratio_grouping"] else None
    order = BatchOrder(parts["sampler"], batch // ranks, shapes)
    dataset = _Examples(DatasetFromList(dicts, copy=False), mapper, seed, skips_broken)
    workers = cfg.DATALOADER.NUM_WORKERS
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=trivial_batch_collator,
        worker_init_fn=_start_worker,
        timeout=cfg.DATALOADER.TIMEOUT if workers else 0,
    )
    return TrainingLoader(loader, order)


def _start_worker(number: int) -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the training; and take one thread: cores are busy."""
    del number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        import cv2  # its threads do not survive a fork
    except ImportError:
        return
    cv2.setNumThreads(0)


class _Examples(Dataset):
    """Examples by place, each with the broken pictures that it stands for."""

    def __init__(self, dicts: Dataset, mapper: Callable[[Example], Example], seed: int, skips_broken: bool) -> None:
        self.dicts, self.mapper, self.seed, self.skips_broken = dicts, mapper, seed, skips_broken

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, place: Place) -> tuple[Example, list[BrokenPicture]]:
        index, broken = place.index, []
        with seeded(self.seed, place.number):
            while True:
                entry = self.dicts[index]
                try:
                    return self.mapper(entry), broken
                # What goes wrong with files; a bug is of another kind.
                except (OSError, ValueError) as error:
                    if not self.skips_broken:
                        raise
                    broken.append(BrokenPicture(entry["file_name"], str(error)))
                    if len(broken) == MOST_TRIES:
                        raise ValueError(
                            f"{MOST_TRIES} pictures one after the other are broken, the last one: {error}. Run "
                            "`panseg validate` on the dataset"
                        ) from error
                index = int(torch.randint(len(self), ()))
