"""In which order a training sees its pictures: batches that depend on the seed and the iteration alone.

Detectron2's loader groups pictures by shape after it has read them, so that nobody knows which ones come next. Here the
order is known beforehand, from the json's widths and heights: a continued training starts where the last one ended.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.utils import comm
from torch.utils.data import Sampler

__all__ = ["BatchOrder", "Place"]


@dataclass(frozen=True)
class Place:
    """A picture's place in the data order.

    Attributes:
        number: counts the pictures that all processes of the training see, from 0; seeds the augmentation.
        index: of the picture in the dataset.
    """

    number: int
    index: int


class BatchOrder(Sampler[list[Place]]):
    """Endless batches of one process; those before `start` are passed over without being read."""

    def __init__(self, indices: Iterable[int], batch_size: int, shapes: Sequence[Any] | None = None) -> None:
        """Take the order.

        Args:
            indices: endless, what one of Detectron2's training samplers gives this process.
            batch_size: pictures per batch.
            shapes: of each picture of the dataset; if given, a batch has pictures of one shape.
        """
        self.indices, self.batch_size, self.shapes = indices, batch_size, shapes
        self.start = 0
        self._rank, self._num_ranks = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[list[Place]]:
        """Yield the batches from number `start` on."""
        return itertools.islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[Place]]:
        waiting: dict[Any, list[Place]] = defaultdict(list)
        for position, index in enumerate(self.indices):
            shape = None if self.shapes is None else self.shapes[index]
            batch = waiting[shape]
            batch.append(Place(position * self._num_ranks + self._rank, index))
            if len(batch) == self.batch_size:
                del waiting[shape]
                yield batch
