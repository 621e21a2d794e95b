"""Draw the things of a synthetic scene: ball, ring, star, crate, tent and boat, told apart by their shapes.

Each is drawn three times too large and reduced, which gives smooth edges and an exact mask.
Shape legend: H, W size of one thing's tile in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["THING_NAMES", "draw_thing"]

_SCALE = 3

_COLORS = (
    (226, 62, 54), (246, 137, 40), (250, 201, 52), (88, 170, 74), (38, 150, 160),
    (44, 98, 190), (128, 78, 170), (230, 108, 160), (120, 205, 225), (140, 92, 60),
)  # fmt: skip
_WHITE = (247, 244, 236)

Color = tuple[int, int, int]


def draw_thing(rng: np.random.Generator, kind: int, extent: float) -> np.ndarray:
    """Return a tile (H, W, 4) float32 in [0, 1], colour and coverage, cut to what is drawn.

    Args:
        rng: source of colours, proportions and rotation.
        kind: index into `THING_NAMES`.
        extent: about the larger side of the thing in pixels.
    """
    drawing = _Drawing(round(extent * _SCALE * 1.06))
    first, second = (_COLORS[i] for i in rng.choice(len(_COLORS), 2, replace=False))
    turn = _DRAW[kind](rng, drawing, first, second)
    image = drawing.image.rotate(turn, Image.Resampling.NEAREST, expand=True).reduce(_SCALE)
    image = image.crop(image.getchannel("A").point(lambda value: 255 * (value > 8)).getbbox())
    tile = np.asarray(image, dtype=np.float32) / 255
    # Light falls from the upper left.
    height, width = tile.shape[:2]
    fall = np.linspace(0, 1, height, dtype=np.float32)[:, None] + np.linspace(0, 0.6, width, dtype=np.float32)
    tile[..., :3] = np.clip(tile[..., :3] * (1.12 - 0.26 * fall)[..., None], 0, 1)
    return tile


class _Drawing:
    """A transparent square with coordinates from -1 to 1, x to the right and y down."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.image = Image.new("RGBA", (side, side))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: list[tuple[float, float]], fill: Color) -> None:
        self.draw.polygon([self._at(x, y) for x, y in points], fill=(*fill, 255))

    def circle(self, x: float, y: float, radius: float, fill: tuple[int, ...]) -> None:
        self.draw.ellipse([self._at(x - radius, y - radius), self._at(x + radius, y + radius)], fill=fill)

    def line(self, points: list[tuple[float, float]], fill: Color, width: float) -> None:
        pixels = max(1, round(width * self.side / 2))
        self.draw.line([self._at(x, y) for x, y in points], fill=(*fill, 255), width=pixels, joint="curve")

    def keep_inside(self, inside: np.ndarray) -> None:
        """Make transparent what lies outside a mask (side, side)."""
        pixels = np.array(self.image)
        pixels[~inside] = 0
        self._replace(pixels)

    def shade(self, brightness: np.ndarray) -> None:
        """Multiply the colours by (side, side)."""
        pixels = np.array(self.image)
        pixels[..., :3] = np.clip(pixels[..., :3] * brightness[..., None], 0, 255)
        self._replace(pixels)

    def glow(self, strength: np.ndarray) -> None:
        """Blend towards white by (side, side) in [0, 1]."""
        pixels = np.array(self.image)
        pixels[..., :3] = pixels[..., :3] + strength[..., None] * (255.0 - pixels[..., :3])
        self._replace(pixels)

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        axis = (np.arange(self.side, dtype=np.float32) + 0.5) / self.side * 2 - 1
        return axis[None, :], axis[:, None]

    def _replace(self, pixels: np.ndarray) -> None:
        self.image = Image.fromarray(pixels)
        self.draw = ImageDraw.Draw(self.image)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (x + 1) / 2 * self.side, (y + 1) / 2 * self.side


def _dark(color: Color, factor: float = 0.6) -> Color:
    return tuple(round(value * factor) for value in color)


def _polar(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.cos(angle), radius * math.sin(angle)


def _ball(rng: np.random.Generator, drawing: _Drawing, first: Color, second: Color) -> float:
    radius, pole = 0.93, (rng.uniform(-0.25, 0.25), rng.uniform(-0.45, -0.15))
    edges = np.linspace(0, 2 * math.pi, 7)
    for number, (start, end) in enumerate(pairwise(edges)):
        arc = [_polar(1.4, angle) for angle in np.linspace(start, end, 5)]
        drawing.polygon([pole, *arc], (first, _WHITE, second)[number % 3])
    drawing.circle(*pole, 0.14, (*_WHITE, 255))
    x, y = drawing.coordinates()
    drawing.keep_inside(np.hypot(x, y) < radius)
    drawing.shade(1.12 - 0.50 * ((x + 0.3) ** 2 + (y + 0.35) ** 2) ** 0.9 / 1.6)
    drawing.glow(0.75 * np.exp(-((x + 0.38) ** 2 + (y + 0.45) ** 2) * 26))
    return rng.uniform(-180, 0) / 6


def _ring(rng: np.random.Generator, drawing: _Drawing, first: Color, second: Color) -> float:
    outer, inner = 0.93, rng.uniform(0.40, 0.52)
    edges = np.linspace(0, 2 * math.pi, 9)
    for number, (start, end) in enumerate(pairwise(edges)):
        arc = [_polar(1.4, angle) for angle in np.linspace(start, end, 5)]
        drawing.polygon([(0, 0), *arc], first if number % 2 else _WHITE)
    x, y = drawing.coordinates()
    radius = np.hypot(x, y)
    drawing.keep_inside((radius < outer) & (radius > inner))
    across = (radius - (outer + inner) / 2) / (outer - inner) * 2  # -1 at the hole, 1 outside
    drawing.shade(1.1 - 0.38 * np.abs(across) ** 2.5)
    return rng.uniform(0, 90)


def _star(rng: np.random.Generator, drawing: _Drawing, first: Color, second: Color) -> float:
    inner, tips = rng.uniform(0.38, 0.46), 5
    corners = [
        _polar(0.97 if number % 2 == 0 else inner, math.pi * number / tips - math.pi / 2) for number in range(2 * tips)
    ]
    for number, (start, end) in enumerate(zip(corners, corners[1:] + corners[:1], strict=True)):
        drawing.polygon([(0, 0), start, end], first if number % 2 else _dark(first, 0.78))
    drawing.line([*corners, corners[0], corners[1]], _dark(first), 0.05)
    return rng.uniform(-36, 36)


def _crate(rng: np.random.Generator, drawing: _Drawing, first: Color, second: Color) -> float:
    half, tall = 0.88, rng.uniform(0.66, 0.88)
    drawing.polygon([(-half, -tall), (half, -tall), (half, tall), (-half, tall)], first)
    planks = np.linspace(-half, half, rng.integers(4, 7))
    for x in planks[1:-1]:
        drawing.line([(x, -tall), (x, tall)], _dark(first, 0.7), 0.04)
    inset = 0.09
    brace = [(-half + inset, tall - inset), (half - inset, inset - tall)]
    drawing.line(brace, _dark(first, 0.55), 0.26)
    drawing.line(brace, _dark(first, 0.85), 0.20)
    frame = [(-half + inset, -tall + inset), (half - inset, -tall + inset), (half - inset, tall - inset)]
    frame += [(-half + inset, tall - inset), frame[0], frame[1]]
    drawing.line(frame, _dark(first, 0.55), 2 * inset + 0.03)
    drawing.line(frame, _dark(first, 0.9), 2 * inset - 0.04)
    return rng.uniform(-14, 14)


def _tent(rng: np.random.Generator, drawing: _Drawing, first: Color, second: Color) -> float:
    peak, foot = (rng.uniform(-0.15, 0.15), -0.78), 0.72
    feet = np.linspace(-0.96, 0.96, 7)
    for number, (left, right) in enumerate(pairwise(feet)):
        drawing.polygon([peak, (left, foot), (right, foot)], first if number % 2 == 0 else _WHITE)
    door = (peak[0] * 0.4, -0.05)
    drawing.polygon([door, (-0.30, foot), (0.30, foot)], _dark(first, 0.35))
    drawing.polygon([door, (0.12, foot), (0.30, foot)], _dark(first, 0.8))
    drawing.line([(-0.96, foot), peak, (0.96, foot), (-0.96, foot), peak], _dark(first), 0.05)
    return rng.uniform(-4, 4)


def _boat(rng: np.random.Generator, drawing: _Drawing, first: Color, second: Color) -> float:
    side = rng.choice([-1, 1])
    drawing.line([(0, 0.5), (0, -0.97)], (92, 64, 48), 0.08)
    drawing.polygon([(0.06 * side, -0.92), (0.06 * side, 0.32), (0.80 * side, 0.32)], _WHITE)
    drawing.polygon([(0.06 * side, -0.15), (0.06 * side, 0.05), (0.60 * side, 0.05), (0.46 * side, -0.15)], second)
    drawing.polygon([(-0.06 * side, -0.72), (-0.06 * side, 0.32), (-0.62 * side, 0.32)], second)
    drawing.polygon([(-0.96, 0.42), (0.96, 0.42), (0.66, 0.92), (-0.66, 0.92)], first)
    drawing.polygon([(-0.96, 0.42), (0.96, 0.42), (0.88, 0.55), (-0.88, 0.55)], _dark(first, 0.7))
    return rng.uniform(-6, 6)


_DRAW: dict[int, Callable[[np.random.Generator, _Drawing, Color, Color], float]] = dict(
    enumerate((_ball, _ring, _star, _crate, _tent, _boat))
)
THING_NAMES = tuple(draw.__name__[1:] for draw in _DRAW.values())
