"""The order of a training's batches, against Detectron2's own grouping, and from any start."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segformer.data.order import BatchOrder

SIZE = 7


def take(order: BatchOrder, number: int) -> list[list[tuple[int, int]]]:
    return [[(place.number, place.index) for place in batch] for batch in itertools.islice(iter(order), number)]


@given(st.integers(0, 30), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_batches_from_any_start_are_those_of_the_whole(start: int, size: int, is_grouped: bool, seed: int) -> None:
    shapes = [index % 3 == 0 for index in range(SIZE)] if is_grouped else None
    order = BatchOrder(TrainingSampler(SIZE, seed=seed), size, shapes)
    whole = take(order, start + 5)
    order.start = start
    assert take(order, 5) == whole[start:]


@given(st.integers(1, 4), st.integers(0, 99))
def test_groups_are_detectron2s(size: int, seed: int) -> None:
    wide = [index % 3 == 0 for index in range(SIZE)]
    entries = ({"width": 2 if wide[i] else 1, "height": 1, "index": i} for i in TrainingSampler(SIZE, seed=seed))
    expected = itertools.islice(AspectRatioGroupedDataset(entries, size), 20)
    found = take(BatchOrder(TrainingSampler(SIZE, seed=seed), size, wide), 20)
    assert [[index for _, index in batch] for batch in found] == [[e["index"] for e in batch] for batch in expected]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_pictures_of_one_process(ranks: int) -> None:
    """The number of a picture, which seeds its augmentation, does not depend on who reads it."""
    alone = take(BatchOrder(TrainingSampler(SIZE, seed=5), 4), 10)
    shares = []
    for rank in range(ranks):
        with (
            mock.patch("detectron2.utils.comm.get_rank", return_value=rank),
            mock.patch("detectron2.utils.comm.get_world_size", return_value=ranks),
        ):
            shares.append(take(BatchOrder(TrainingSampler(SIZE, seed=5), 4 // ranks), 10))
    together = [sorted(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in alone]
