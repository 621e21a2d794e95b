"""Heat-maps of thing centres: a Gaussian per thing, wider for larger things.

Law and Deng, "CornerNet", ECCV 2018, section 3.2; Zhou et al., "Objects as Points", 2019, section 3.
Shape legend: N things, K classes, h, w size of the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["HeatMapOptions", "draw_heat_map", "gaussian_radii"]


@dataclass(frozen=True)
class HeatMapOptions:
    """How wide a Gaussian is.

    Attributes:
        min_overlap: a box moved by the radius overlaps the true one about this much.
        sigmas_per_diameter: the diameter 2 r + 1 over the standard deviation.
    """

    min_overlap: float
    sigmas_per_diameter: float


def draw_heat_map(
    classes: Tensor, centers: Tensor, box_sizes: Tensor, shape: tuple[int, int, int], options: HeatMapOptions
) -> Tensor:
    """Return the heat-map (K, h, w), the greatest of all Gaussians of a class at each cell.

    Args:
        classes: (N,) int64.
        centers: (N, 2) (x, y), cells; their fractions are cut off.
        box_sizes: (N, 2) (width, height), cells.
        shape: (K, h, w).
        options: how wide they are.
    """
    _, height, width = shape
    heat_map = box_sizes.new_zeros(shape)
    radii = gaussian_radii(box_sizes, options.min_overlap)
    sigmas = (2 * radii + 1) / options.sigmas_per_diameter
    # The released code lets a centre lie one cell outside; the rest of its Gaussian is drawn.
    x = centers[:, 0].trunc().clamp(0, width)
    y = centers[:, 1].trunc().clamp(0, height)
    gaussians = _profiles(y, radii, sigmas, height)[:, :, None] * _profiles(x, radii, sigmas, width)[:, None, :]
    return heat_map.scatter_reduce_(0, classes[:, None, None].expand_as(gaussians), gaussians, "amax")


def gaussian_radii(box_sizes: Tensor, min_overlap: float) -> Tensor:
    """Return the radii (N,) of boxes (N, 2) (width, height): whole cells, at least 0.

    They solve three quadratic equations a r^2 + b r + c = 0, for a corner moved out, in, and one of each. The released
    code takes (b + sqrt(b^2 - 4 a c)) / 2 for the root of all three; models are trained with what comes of it.
    """
    total, area = box_sizes.sum(1), box_sizes.prod(1)
    equations = (
        (1, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4, 2 * total, area * (1 - min_overlap)),
        (4 * min_overlap, -2 * min_overlap * total, area * (min_overlap - 1)),
    )
    roots = [(b + (b.square() - 4 * a * c).clamp(min=0).sqrt()) / 2 for a, b, c in equations]
    return torch.stack(roots).amin(0).trunc().clamp(min=0)


def _profiles(centers: Tensor, radii: Tensor, sigmas: Tensor, length: int) -> Tensor:
    """Return Gaussians (N, length) along one axis, 0 beyond their radius."""
    distances = torch.arange(length, device=centers.device) - centers[:, None]
    values = (-distances.square() / (2 * sigmas[:, None].square())).exp()
    return values.where(distances.abs() <= radii[:, None], 0)
