"""Backgrounds without a hand: plain, gradient, noise, blurred shapes, clutter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from fingerspell.rendering.raster import FloatMap


def draw_background(rng: np.random.Generator, size: int) -> FloatMap:
    """Random background of a random kind; shape (size, size, 3), linear RGB in 0..1."""
    kinds = (_plain, _gradient, _noise, _blurred_shapes, _clutter)
    tones = kinds[rng.integers(len(kinds))](rng, size)
    return (np.clip(tones, 0, 1) ** 2).astype(np.float32)  # gamma 2


def _colour(rng: np.random.Generator) -> FloatMap:
    """Random colour, mostly muted as walls and furniture are."""
    grey = rng.uniform(0.05, 0.95)
    return np.clip(grey + rng.uniform(0, 0.3) * rng.uniform(-1, 1, 3), 0, 1).astype(np.float32)


def _plain(rng: np.random.Generator, size: int) -> FloatMap:
    return np.broadcast_to(_colour(rng), (size, size, 3))


def _gradient(rng: np.random.Generator, size: int) -> FloatMap:
    corners = np.stack([_colour(rng) for _ in range(4)]).reshape(2, 2, 3)
    return _grown(corners, size)


def _noise(rng: np.random.Generator, size: int) -> FloatMap:
    """Sum of ever finer and fainter random grids, as on stone, cloth or leaves."""
    tones = np.broadcast_to(_colour(rng), (size, size, 3)).copy()
    contrast = rng.uniform(0.08, 0.4)
    for octave in range(1, 6):
        grid = rng.uniform(-1, 1, (2**octave + 1, 2**octave + 1, 3)).astype(np.float32)
        grid = grid.mean(-1, keepdims=True) + 0.12 * grid  # mostly grey
        tones += _grown(grid, size) * np.float32(contrast / 1.5**octave)
    return tones


def _blurred_shapes(rng: np.random.Generator, size: int) -> FloatMap:
    """Draw a room out of focus."""
    picture = _shapes(rng, size, number=int(rng.integers(4, 14)))
    blurred = picture.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.02, 0.06)))
    return np.asarray(blurred, np.float32) / np.float32(255)


def _clutter(rng: np.random.Generator, size: int) -> FloatMap:
    """Draw a room in focus, with hard edges and lines."""
    picture = _shapes(rng, size, number=int(rng.integers(8, 24)))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 10)):
        ends = tuple((rng.uniform(0, 1, 4) * size).tolist())
        pen.line(ends, fill=_ink(rng), width=max(1, round(size * rng.uniform(0.005, 0.03))))
    return np.asarray(picture, np.float32) / np.float32(255)


def _shapes(rng: np.random.Generator, size: int, number: int) -> Image.Image:
    """Ellipses, boxes and polygons of random colours, over each other."""
    picture = Image.new("RGB", (size, size), _ink(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(number):
        middle, reach = rng.uniform(0, 1, 2) * size, rng.uniform(0.05, 0.4, 2) * size
        box = (*(middle - reach).tolist(), *(middle + reach).tolist())
        kind = rng.integers(3)
        if kind == 0:
            pen.ellipse(box, fill=_ink(rng))
        elif kind == 1:
            pen.rectangle(box, fill=_ink(rng))
        else:
            corners = middle + reach * rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2))
            pen.polygon([tuple(corner) for corner in corners.tolist()], fill=_ink(rng))
    return picture


def _ink(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (255 * _colour(rng)).astype(int).tolist()
    return red, green, blue


def _grown(grid: FloatMap, size: int) -> FloatMap:
    """Small grid of shape (k, k, channels) stretched smoothly over the picture."""
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(grid[..., channel], np.float32)).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        )
        for channel in range(grid.shape[-1])
    ]
    return np.stack(channels, axis=-1)
