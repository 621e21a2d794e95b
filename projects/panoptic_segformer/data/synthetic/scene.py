"""Compose a synthetic scene: things of many sizes before a background, far ones first, with its truth.

Shape legend: H, W picture size, N segments, h, w size of one thing's tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .stuff import STUFF_NAMES, Background, paint_background
from .things import THING_NAMES, draw_thing

__all__ = ["Scene", "compose_scene"]

_MAX_THINGS = 8
_EMPTY_SHARE = 0.06
# A nearer thing is placed only where every farther one keeps this share of its pixels in sight, ...
_MIN_VISIBLE_SHARE = 0.45
# ... and each keeps at least this share of the picture (180 pixels of 256 x 320).
_MIN_THING_SHARE = 0.0022
# Stuff that is seen on less than this share of the picture is void.
_MIN_STUFF_SHARE = 0.003
_TRIES = 8


@dataclass
class Scene:
    """A picture with its truth.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        segments: (H, W) int64, number n of the segment in [1, N], 0 = void.
        names: N class names, that of segment n at n - 1.
    """

    image: np.ndarray
    segments: np.ndarray
    names: list[str]


def compose_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Return a scene of size (height, width) pixels that the random generator decides."""
    background = paint_background(rng, size)
    is_bird = _draw_birds(rng, background)
    things = np.zeros(size, dtype=np.int64)  # Number of the thing that is seen, 0 = none.
    names = []
    for kind, extent, base in _plan_things(rng, background):
        tile = draw_thing(rng, kind, extent)
        for _ in range(_TRIES):
            corner = round(base - tile.shape[0]), round(rng.uniform(-0.2, 1) * size[1] - 0.4 * extent)
            if _place(tile, corner, things, len(names) + 1):
                _paint(background.image, tile, corner)
                names.append(THING_NAMES[kind])
                break
    segments = things
    for label, name in enumerate(STUFF_NAMES):
        seen = (background.labels == label) & (things == 0) & ~is_bird
        if seen.sum() > _MIN_STUFF_SHARE * seen.size:
            names.append(name)
            segments = np.where(seen, len(names), segments)
    image = np.uint8(np.clip(background.image, 0, 1) * 255 + 0.5)
    return Scene(image, segments, names)


def _plan_things(rng: np.random.Generator, background: Background) -> list[tuple[int, float, float]]:
    """Return kind, extent and lower edge (both pixels) of the things to place, far ones first."""
    height, horizon = len(background.image), background.horizon
    count = 0 if rng.random() < _EMPTY_SHARE else rng.integers(1, _MAX_THINGS + 1)
    nearness = np.sort(rng.uniform(0.08, 1, count))
    extents = height * np.clip((0.10 + 0.26 * nearness) * rng.uniform(0.75, 1.35, count), 0.11, 0.46)
    bases = horizon + (height * 1.02 - horizon) * nearness
    kinds = rng.integers(0, len(THING_NAMES), count)
    return list(zip(kinds.tolist(), extents.tolist(), bases.tolist(), strict=True))


def _window(tile: np.ndarray, corner: tuple[int, int], size: tuple[int, ...]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return where a tile meets the picture, and the part of the tile that does."""
    (top, left), (height, width) = corner, tile.shape[:2]
    rows = slice(max(top, 0), max(0, min(top + height, size[0])))
    columns = slice(max(left, 0), max(0, min(left + width, size[1])))
    return (rows, columns), tile[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _place(tile: np.ndarray, corner: tuple[int, int], things: np.ndarray, number: int) -> bool:
    """Write a thing's number into the map (H, W) unless it would leave too little of any thing in sight."""
    window, part = _window(tile, corner, things.shape)
    is_thing = part[..., 3] > 0.5
    if is_thing.sum() < _MIN_VISIBLE_SHARE * (tile[..., 3] > 0.5).sum():
        return False
    trial = things.copy()
    trial[window][is_thing] = number
    before = np.bincount(things.ravel(), minlength=number + 1)[1:]
    after = np.bincount(trial.ravel(), minlength=number + 1)[1:]
    if (after < _MIN_THING_SHARE * things.size).any() or (after < _MIN_VISIBLE_SHARE * before).any():
        return False
    things[:] = trial
    return True


def _paint(image: np.ndarray, tile: np.ndarray, corner: tuple[int, int]) -> None:
    """Blend a tile (h, w, 4) into the picture, above a soft shadow on the ground."""
    height, width = tile.shape[:2]
    foot, middle = corner[0] + 0.97 * height, corner[1] + 0.5 * width
    rows = slice(max(0, round(foot - 0.25 * height)), max(0, round(foot + 0.25 * height)))
    y, x = np.mgrid[rows, : image.shape[1]].astype(np.float32)[:, : len(image[rows])]
    distance = ((y - foot) / (0.09 * height + 1)) ** 2 + ((x - middle) / (0.5 * width)) ** 2
    image[rows] *= 1 - 0.42 * np.exp(-(distance**1.5))[..., None]
    window, part = _window(tile, corner, image.shape)
    image[window] += part[..., 3:] * (part[..., :3] - image[window])


def _draw_birds(rng: np.random.Generator, background: Background) -> np.ndarray:
    """Draw a few far birds that belong to no class; return their pixels (H, W) bool."""
    height, width = background.labels.shape
    scale = 4
    canvas = Image.new("L", (width * scale, height * scale))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 5) if rng.random() < 0.5 else 0):
        x, y = rng.uniform(0.05, 0.95) * width, rng.uniform(0.1, 0.7) * background.horizon
        span, lift = height * rng.uniform(0.014, 0.028), rng.uniform(0.3, 0.6)
        wings = [(-1, -lift), (-0.45, -lift), (0, 0), (0.45, -lift), (1, -lift)]
        points = [((x + span * u) * scale, (y + span * v) * scale) for u, v in wings]
        draw.line(points, fill=255, width=max(1, round(height / 150 * scale)), joint="curve")
    coverage = np.asarray(canvas.reduce(scale), dtype=np.float32) / 255
    background.image += coverage[..., None] * (np.float32([0.16, 0.18, 0.24]) - background.image)
    return coverage > 0.4
