"""Which kernels are taken and put together, against loops over cells and pairs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from panoptic_fcn.kernels import KernelOptions, Kernels, fuse_similar, peak_scores, pick_stuff, pick_things

OPTIONS = KernelOptions(
    thing_threshold=0.3,
    num_things=4,
    pool_sizes=[3, 5],
    stuff_threshold=0.3,
    similarity_threshold=0.9,
    same_class=True,
)


def random_levels(channels: int, seed: int = 0, sizes=((5, 6), (2, 3))):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(channels, *size, generator=generator, dtype=torch.float64) for size in sizes]


def window(values, row, column, radius):
    return [
        values[r, c].item()
        for r in range(max(0, row - radius), min(values.shape[0], row + radius + 1))
        for c in range(max(0, column - radius), min(values.shape[1], column + radius + 1))
    ]


@pytest.mark.parametrize("pool_size", [3, 5])
def test_peaks_are_local_maxima_of_the_smoothed_scores(pool_size):
    probs = random_levels(2)[0].sigmoid()
    found = peak_scores(probs, pool_size)
    for own, peaks in zip(probs, found, strict=True):
        smooth = torch.zeros_like(own)
        for row in range(own.shape[0]):
            for column in range(own.shape[1]):
                # Cells outside count as zeros.
                mean = sum(window(own, row, column, pool_size // 2)) / pool_size**2
                smooth[row, column] = (own[row, column] + mean) / 2
        for row in range(own.shape[0]):
            for column in range(own.shape[1]):
                is_peak = smooth[row, column] >= max(window(smooth, row, column, 1))
                expected = smooth[row, column].item() if is_peak else 0
                assert peaks[row, column].item() == pytest.approx(expected, abs=1e-12)
    assert found.count_nonzero() > 2


def test_things_are_the_best_peaks_of_each_level_best_first():
    logits, maps = random_levels(2), random_levels(3, seed=1)
    expected = []
    for level, pool_size in enumerate(OPTIONS.pool_sizes):
        peaks = peak_scores(logits[level].sigmoid(), pool_size)
        cells = [
            (peaks[label, row, column].item(), label, maps[level][:, row, column])
            for label in range(2)
            for row in range(peaks.shape[1])
            for column in range(peaks.shape[2])
        ]
        best = sorted(cells, key=lambda cell: -cell[0])[: OPTIONS.num_things]
        expected += [cell for cell in best if cell[0] > OPTIONS.thing_threshold]
    expected.sort(key=lambda cell: -cell[0])
    found = pick_things(logits, maps, OPTIONS)
    assert len(expected) > OPTIONS.num_things
    assert found.scores.tolist() == [score for score, _, _ in expected]
    assert found.classes.tolist() == [label for _, label, _ in expected]
    assert torch.equal(found.vectors, torch.stack([vector for _, _, vector in expected]))


def test_a_level_of_one_cell_gives_at_most_one_thing():
    found = pick_things(
        [torch.full((3, 1, 1), 9.0)], [torch.ones(2, 1, 1)], dataclasses.replace(OPTIONS, pool_sizes=[3])
    )
    assert len(found.scores) == 1


def test_stuff_is_averaged_over_levels_and_divided_by_all_cells():
    logits, maps = random_levels(4), random_levels(3, seed=1)
    sums: dict[int, list] = {}
    for level_logits, kernel_map in zip(logits, maps, strict=True):
        probs = level_logits.sigmoid()
        labels = probs.argmax(0)
        for label in labels.unique().tolist():
            region = labels == label
            score = probs[label][region].mean().item()
            if score > OPTIONS.stuff_threshold:
                vector = kernel_map[:, region].sum(1) / region.numel()
                sums.setdefault(label, []).append((score, vector))
    found = pick_stuff(logits, maps, OPTIONS)
    assert found.classes.tolist() == sorted(sums)
    assert any(len(levels) == 2 for levels in sums.values())
    for label, score, vector in zip(found.classes.tolist(), found.scores.tolist(), found.vectors, strict=True):
        scores, vectors = zip(*sums[label], strict=True)
        assert score == pytest.approx(sum(scores) / len(scores))
        torch.testing.assert_close(vector, torch.stack(vectors).mean(0))


def test_nothing_above_the_thresholds_gives_no_kernels():
    logits, maps = [torch.full((2, 4, 4), -9.0)], [torch.ones(3, 4, 4)]
    options = dataclasses.replace(OPTIONS, pool_sizes=[3])
    for found in (pick_things(logits, maps, options), pick_stuff(logits, maps, options)):
        assert found.vectors.shape == (0, 3)
        assert len(found.classes) == len(found.scores) == 0
    assert fuse_similar(found, options).vectors.shape == (0, 3)


def expected_fusion(kernels: Kernels, options: KernelOptions):
    """Return rows of (vector, class, score) by loops over pairs."""

    def similar(i, j):
        cosine = F.cosine_similarity(kernels.vectors[i], kernels.vectors[j], dim=0)
        same = not options.same_class or kernels.classes[i] == kernels.classes[j]
        return i == j or (bool(cosine >= options.similarity_threshold) and bool(same))

    number = len(kernels.scores)
    first = [next(j for j in range(i + 1) if similar(j, i)) for i in range(number)]
    rows = []
    for kept in (i for i in range(number) if first[i] == i):
        followers = [i for i in range(number) if first[i] == kept]
        rows.append((kernels.vectors[followers].mean(0), kernels.classes[kept].item(), kernels.scores[kept].item()))
    return rows


@given(st.integers(0, 1000), st.integers(1, 12), st.booleans())
def test_fusion_follows_the_first_similar_kernel(seed, number, same_class):
    generator = torch.Generator().manual_seed(seed)
    kernels = Kernels(
        torch.randn(number, 2, generator=generator, dtype=torch.float64),
        torch.randint(2, (number,), generator=generator),
        torch.rand(number, generator=generator).sort(descending=True).values,
    )
    options = dataclasses.replace(OPTIONS, same_class=same_class)
    found, expected = fuse_similar(kernels, options), expected_fusion(kernels, options)
    assert found.classes.tolist() == [label for _, label, _ in expected]
    assert found.scores.tolist() == [score for _, _, score in expected]
    torch.testing.assert_close(found.vectors, torch.stack([vector for vector, _, _ in expected]))


def test_kernel_similar_only_to_a_dropped_one_is_gone():
    angles = torch.tensor([0.0, 20.0, 40.0]).deg2rad()  # cosines 0.94 of neighbours, 0.77 of the outer two
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    kernels = Kernels(vectors, torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7]))
    found = fuse_similar(kernels, OPTIONS)
    assert found.scores.tolist() == [pytest.approx(0.9)]
    torch.testing.assert_close(found.vectors, vectors[:2].mean(0, keepdim=True))
