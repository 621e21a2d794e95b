"""From position and kernel maps to kernels: one per thing, one per stuff class (paper, sections 3.2 and 3.3).

Shape legend: K_th thing classes, K stuff classes with "any thing" in front, h, w size of a level, D length of a kernel,
N kernels, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .losses import mean_kernels

__all__ = ["KernelOptions", "Kernels", "fuse_similar", "peak_scores", "pick_stuff", "pick_things"]

# Scores are peaks if none is greater in this window, cells.
PEAK_WINDOW = 3


@dataclass(frozen=True)
class KernelOptions:
    """Which kernels are taken, see MODEL.POSITION_HEAD and MODEL.INFERENCE.

    Attributes:
        thing_threshold: what the score of a thing has to exceed.
        num_things: of a level, at most.
        pool_sizes: per level the side of the window that scores of things are averaged in, cells, odd.
        stuff_threshold: what the score of a stuff class on a level has to exceed.
        similarity_threshold: kernels of things become one from this cosine on.
        same_class: whether only those of one class do.
    """

    thing_threshold: float
    num_things: int
    pool_sizes: Sequence[int]
    stuff_threshold: float
    similarity_threshold: float
    same_class: bool


@dataclass(frozen=True)
class Kernels:
    """Kernels of one picture.

    Attributes:
        vectors: (N, D).
        classes: (N,) int64, of things or of stuff.
        scores: (N,) in [0, 1].
    """

    vectors: Tensor
    classes: Tensor
    scores: Tensor

    def embedded(self, generator: Callable[[Tensor], Tensor]) -> Kernels:
        """Return the kernels with other vectors, those that the generator makes of them."""
        return Kernels(generator(self.vectors), self.classes, self.scores)


def pick_things(logits: Sequence[Tensor], kernel_maps: Sequence[Tensor], options: KernelOptions) -> Kernels:
    """Return the kernels at the peaks of all levels, best first.

    Args:
        logits: per level (K_th, h, w).
        kernel_maps: per level (D, h, w).
        options: thresholds.
    """
    vectors, classes, scores = [], [], []
    for level_logits, kernel_map, pool_size in zip(logits, kernel_maps, options.pool_sizes, strict=True):
        cells = kernel_map[0].numel()
        peaks = peak_scores(level_logits.sigmoid(), pool_size).flatten()
        best, places = peaks.topk(min(options.num_things, cells))
        places = places[best > options.thing_threshold]
        vectors.append(kernel_map.flatten(1).T[places % cells])
        classes.append(places // cells)
        scores.append(peaks[places])
    order = torch.cat(scores).argsort(descending=True)
    return Kernels(torch.cat(vectors)[order], torch.cat(classes)[order], torch.cat(scores)[order])


def peak_scores(probs: Tensor, pool_size: int) -> Tensor:
    """Return the mean of probs (K_th, h, w) and their means over a window, and 0 where that is no peak."""
    scores = (probs + F.avg_pool2d(probs, pool_size, stride=1, padding=pool_size // 2)) / 2
    is_peak = scores == F.max_pool2d(scores, PEAK_WINDOW, stride=1, padding=PEAK_WINDOW // 2)
    return scores.where(is_peak, 0)


def pick_stuff(logits: Sequence[Tensor], kernel_maps: Sequence[Tensor], options: KernelOptions) -> Kernels:
    """Return one kernel per stuff class that is found, in increasing order of the class.

    On each level a class has the cells where it is the most probable one; its score is its mean probability there.
    Kernels and scores are means over the levels that the class is found on. The generator is affine, so that it does
    not matter that the released code takes the means behind it.

    Args:
        logits: per level (K, h, w).
        kernel_maps: per level (D, h, w).
        options: thresholds.
    """
    vectors, scores = [], []
    for level_logits, kernel_map in zip(logits, kernel_maps, strict=True):
        probs = level_logits.sigmoid()
        regions = F.one_hot(probs.argmax(0), len(probs)).permute(2, 0, 1)
        sums = (probs * regions).sum((1, 2))
        scores.append(sums / regions.sum((1, 2)).clamp(min=1))
        vectors.append(mean_kernels(kernel_map, regions))
    found = torch.stack(scores) > options.stuff_threshold  # (L, K)
    shares = found / found.sum(0).clamp(min=1)
    classes = found.any(0).nonzero()[:, 0]
    mean_vectors = (torch.stack(vectors) * shares[..., None]).sum(0)
    mean_scores = (torch.stack(scores) * shares).sum(0)
    return Kernels(mean_vectors[classes], classes, mean_scores[classes])


def fuse_similar(kernels: Kernels, options: KernelOptions) -> Kernels:
    """Return the kernels of things with those that are similar put together.

    Each kernel follows the first one that it is similar to, which may be itself. Those that follow themselves stay, as
    means of their followers. A kernel that follows one that does not stay is gone: the released code has it so.

    Args:
        kernels: best first.
        options: threshold of the cosine.
    """
    if not len(kernels.scores):
        return kernels
    directions = F.normalize(kernels.vectors, dim=1)
    similar = directions @ directions.T >= options.similarity_threshold
    if options.same_class:
        similar &= kernels.classes[:, None] == kernels.classes
    similar |= torch.eye(len(similar), dtype=torch.bool, device=similar.device)  # rounding, and kernels of zeros
    first = similar.to(torch.uint8).argmax(0)
    kept = (first == torch.arange(len(first), device=first.device)).nonzero()[:, 0]
    followers = (first == kept[:, None]).to(kernels.vectors.dtype)
    means = followers @ kernels.vectors / followers.sum(1, keepdim=True)
    return Kernels(means, kernels.classes[kept], kernels.scores[kept])
