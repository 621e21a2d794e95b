"""Paint the stuff of a synthetic scene: sky, mountain, water, grass, sand and a brick path, with textures.

Borders are curves y(x), so that their anti-aliasing is exact arithmetic and the label of a pixel is the side
its centre lies on. Shape legend: H, W picture size; colours are float32 in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["STUFF_NAMES", "Background", "paint_background"]

STUFF_NAMES = ("sky", "mountain", "water", "grass", "sand", "path")
_SKY, _MOUNTAIN, _WATER, _GRASS, _SAND, _PATH = range(len(STUFF_NAMES))

# Colours at the zenith and at the horizon.
_SKIES = (
    ((0.25, 0.52, 0.86), (0.80, 0.92, 0.98)),
    ((0.16, 0.40, 0.74), (0.66, 0.85, 0.95)),
    ((0.36, 0.36, 0.66), (0.99, 0.76, 0.60)),
    ((0.45, 0.60, 0.80), (0.97, 0.92, 0.80)),
)
_WATERS = ((0.05, 0.36, 0.55), (0.04, 0.46, 0.52), (0.12, 0.33, 0.62))
_GRASSES = ((0.28, 0.52, 0.16), (0.38, 0.58, 0.20), (0.20, 0.46, 0.22))
_SANDS = ((0.90, 0.79, 0.56), (0.94, 0.85, 0.66), (0.85, 0.71, 0.49))
_ROCKS = ((0.38, 0.42, 0.52), (0.45, 0.42, 0.45), (0.33, 0.40, 0.46))
_BRICKS = ((0.66, 0.34, 0.26), (0.60, 0.40, 0.34), (0.55, 0.36, 0.40))


@dataclass
class Background:
    """What lies behind the things.

    Attributes:
        image: (H, W, 3) colours.
        labels: (H, W) index into `STUFF_NAMES`.
        horizon: row where the ground begins.
    """

    image: np.ndarray
    labels: np.ndarray
    horizon: float


def paint_background(rng: np.random.Generator, size: tuple[int, int]) -> Background:
    """Return sky, one to three kinds of ground, perhaps mountains and a path; size is (height, width)."""
    height, width = size
    horizon = height * rng.uniform(0.24, 0.46)
    scene = Background(np.zeros((*size, 3), np.float32), np.full(size, _SKY, dtype=np.int64), horizon)
    _paint_sky(rng, scene)
    if rng.random() < 0.55:
        _paint_mountains(rng, scene)
    grounds = rng.permutation([_WATER, _GRASS, _SAND])[: rng.choice([1, 2, 3], p=[0.2, 0.45, 0.35])]
    tops = horizon + (height - horizon) * _spread(rng, len(grounds))
    for ground, top in zip(grounds, tops, strict=True):
        bend = 0.008 if top == horizon else 0.05
        border = top + height * bend * _curve(rng, width, rng.uniform(0.25, 0.6) * width)
        first = max(0, int(border.min()))  # Rows above are not touched.
        texture = _TEXTURES[ground](rng, (height - first, width), horizon - first)
        _blend(scene, texture, _below(border, height)[first:], ground)
    if grounds[-1] != _WATER and rng.random() < 0.6:
        _paint_path(rng, scene, border)
    return scene


def _spread(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return increasing borders in [0, 1), the first 0, none of the parts thin."""
    return np.arange(count) / count * rng.uniform(0.75, 1.1) if count > 1 else np.zeros(1)


def _blend(scene: Background, texture: np.ndarray, coverage: np.ndarray, label: int) -> None:
    """Paint the lowest rows of a scene: texture (rows, W, 3) where coverage (rows, W) says so."""
    rows = slice(len(scene.image) - len(texture), None)
    scene.image[rows] += coverage[..., None] * (texture - scene.image[rows])
    scene.labels[rows][coverage > 0.5] = label


def _below(border: np.ndarray, height: int) -> np.ndarray:
    """Return how much of each pixel (H, W) lies below a curve (W,)."""
    return np.clip(np.arange(1, height + 1, dtype=np.float32)[:, None] - border, 0, 1)


def _noise(rng: np.random.Generator, size: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """Return smooth noise (H, W), mostly in [0, 1], with features of cell = (height, width) pixels."""
    shape = [max(2, round(length / step) + 1) for length, step in zip(size, cell, strict=True)]
    grid = Image.fromarray(rng.random(shape, dtype=np.float32))
    return np.asarray(grid.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _clouds(rng: np.random.Generator, size: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    octaves = (_noise(rng, size, (cell[0] / scale, cell[1] / scale)) / scale for scale in (1, 2, 4, 8))
    return sum(octaves) / 1.875


def _curve(rng: np.random.Generator, width: int, cell: float) -> np.ndarray:
    return _noise(rng, (2, width), (2, cell))[0] * 2 - 1


def _step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    ramp = np.clip((values - low) / (high - low), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _rows(size: tuple[int, int], horizon: float) -> np.ndarray:
    """Return nearness (H, 1) of the ground: 0 at the horizon, 1 at the lower edge."""
    rows = (np.arange(size[0], dtype=np.float32) + 0.5 - horizon) / (size[0] - horizon)
    return np.clip(rows, 0.004, 1)[:, None]


def _pick(rng: np.random.Generator, colors: tuple) -> np.ndarray:
    return np.asarray(colors[rng.integers(len(colors))], dtype=np.float32)


def _tint(base: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    return np.clip(base * brightness[..., None], 0, 1)


def _paint_sky(rng: np.random.Generator, scene: Background) -> None:
    width, horizon = scene.labels.shape[1], scene.horizon
    # The ground begins a little above or below the horizon.
    size = height, _ = math.ceil(horizon * 1.1), width
    zenith, low = _pick(rng, _SKIES)
    y, x = np.ogrid[:height, :width]
    fall = np.clip(y / horizon, 0, 1)[..., None] ** 0.8
    sun = np.hypot(y - horizon * rng.uniform(0.15, 0.6), x - width * rng.uniform(0.1, 0.9)) / width
    glow = np.clip(np.exp(-sun * 11) * 0.5 + _step(-sun, -0.036, -0.028), 0, 1)
    cover = 0.9 * _step(_clouds(rng, size, (width * 0.13, width * 0.35)), rng.uniform(0.48, 0.6), 0.78)
    sky = zenith + fall * (low - zenith)
    sky = sky + glow[..., None] * (np.float32([1.0, 0.96, 0.82]) - sky)
    scene.image[:height] = sky + cover[..., None] * (1 - sky)


def _paint_mountains(rng: np.random.Generator, scene: Background) -> None:
    height, width = scene.labels.shape
    rock, peaks = _pick(rng, _ROCKS), rng.uniform(0.45, 0.8) * scene.horizon
    for nearness in (0.0, 0.5, 1.0)[: rng.integers(2, 4)]:
        heights = sum(_zigzag(rng, width, 3 * 2**n) / 2**n for n in range(5)) - 0.15
        ridge = scene.horizon - peaks * (1 - 0.45 * nearness) * np.clip(heights, 0.12, None)
        first = max(0, int(ridge.min()))
        size = (height - first, width)
        strata = _clouds(rng, size, (width / 9, width / 16)) - 0.5
        # A slope that falls to the right turns away from the light.
        slope = np.clip(np.gradient(np.convolve(np.pad(ridge, 4, "edge"), np.full(9, 1 / 9), "valid")), -1, 1)
        image = _tint(rock * (1.3 - 0.45 * nearness), 1 + 0.7 * strata - 0.35 * slope)
        depth = np.arange(first, height, dtype=np.float32)[:, None] - ridge
        snow = _step(peaks * (0.45 * heights - 0.28) + 25 * strata - depth, -1, 1) * (1 - 0.5 * nearness)
        image += snow[..., None] * (np.float32([0.93, 0.95, 1]) * (1 - 0.2 * slope[:, None]) - image)
        _blend(scene, image, _below(ridge, height)[first:], _MOUNTAIN)


def _zigzag(rng: np.random.Generator, width: int, knots: int) -> np.ndarray:
    """Return straight slopes (W,) between random heights in [0, 1]."""
    return np.interp(np.arange(width), np.linspace(0, width, knots + 1), rng.random(knots + 1))


def _water(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> np.ndarray:
    width = size[1]
    near = _rows(size, horizon)
    drift = _noise(rng, size, (width / 18, width / 7))
    crests = np.sin(24 * np.log(near + 0.12) + 7 * drift + rng.uniform(0, 6))
    glints = _step(crests * _noise(rng, size, (width / 75, width / 16)), 0.45, 0.75)
    image = _tint(_pick(rng, _WATERS), 1.75 - 0.75 * near + 0.16 * crests + 0.15 * (drift - 0.5))
    return image + 0.65 * glints[..., None] * (1 - image)


def _grass(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> np.ndarray:
    width = size[1]
    near = _rows(size, horizon)
    blades = _noise(rng, size, (width / 56, width / 190)) - 0.5
    patches = _clouds(rng, size, (width / 6, width / 3)) - 0.5
    image = _tint(_pick(rng, _GRASSES), 1.2 - 0.15 * near + (0.25 + 0.6 * near) * blades + 0.9 * patches)
    image[..., 0] += 0.25 * patches
    flowers = rng.random(size) < 0.0025 * near * rng.integers(0, 3)
    flowers |= np.roll(flowers, 1, axis=1) | np.roll(flowers, 1, axis=0)
    image[flowers] = _pick(rng, ((1.0, 0.95, 0.9), (1.0, 0.85, 0.2), (0.95, 0.55, 0.7)))
    return image


def _sand(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> np.ndarray:
    width = size[1]
    near = _rows(size, horizon)
    dunes = _noise(rng, size, (width / 5, width / 3))
    ripples = np.sin(16 * np.log(near + 0.2) + 16 * dunes) * near
    grain = rng.random(size, dtype=np.float32) - 0.5
    image = _tint(_pick(rng, _SANDS), 1 + 0.045 * ripples + 0.13 * grain + 0.16 * (dunes - 0.5))
    pebbles = rng.random(size) < 0.0012
    image[pebbles | np.roll(pebbles, 1, axis=1)] *= 0.62
    return image


_TEXTURES = {_WATER: _water, _GRASS: _grass, _SAND: _sand}


def _paint_path(rng: np.random.Generator, scene: Background, border: np.ndarray) -> None:
    height, width = scene.labels.shape
    first = max(0, int(border.min()))
    size, ground = (height - first, width), height - border.min()
    near = _rows(size, scene.horizon - first)
    start = np.linspace(0, 1, size[0])[:, None]
    sway = ground / height * (rng.uniform(-0.35, 0.35) * np.sin(start * rng.uniform(2, 4)))
    centre, half = width * (rng.uniform(0.3, 0.7) + sway), width * rng.uniform(0.16, 0.24) * (near + 0.08)
    across = (np.arange(width) + 0.5 - centre) / half  # (rows, W), -1 and 1 at the kerbs
    coverage = np.clip((1 - np.abs(across)) * half + 0.5, 0, 1) * _below(border, height)[first:]

    rows = 13 * np.log(near + 0.1) + 40
    columns = across * 3 + 0.5 * (np.floor(rows) % 2) + 40
    shades = rng.uniform(0.75, 1.25, (64, 64))[np.int64(rows) % 64, np.int64(columns) % 64]
    image = _tint(_pick(rng, _BRICKS), np.float32(shades + 0.25 * (rng.random(size) - 0.5)))
    row_joints, column_joints = np.abs(rows % 1 - 0.5), np.abs(columns % 1 - 0.5)
    joints = np.maximum(_step(row_joints, 0.40, 0.46), _step(column_joints, 0.42, 0.47))
    image += (joints * 0.8)[..., None] * (np.float32([0.80, 0.76, 0.70]) - image)
    kerb = _step(np.abs(across), 0.90, 0.93)[..., None]
    _blend(scene, image * (1 - 0.45 * kerb), coverage, _PATH)
