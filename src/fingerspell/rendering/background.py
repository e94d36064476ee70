"""Backgrounds without a hand: plain, gradient, noise, blurred shapes, clutter, a person; or a user's pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fingerspell import images
from fingerspell.rendering.shading import skin

if TYPE_CHECKING:
    from pathlib import Path

    from fingerspell.rendering.raster import FloatMap


def draw_background(kind: str, rng: np.random.Generator, size: int) -> FloatMap:
    """Background of a kind of ``KINDS``, all else at random; shape (size, size, 3), linear RGB in 0..1."""
    return _linear(_KINDS[kind](rng, size))


def photo_background(path: Path, rng: np.random.Generator, size: int) -> FloatMap:
    """Random square of a user's picture, half its shorter side or more, perhaps mirrored; shape and units as above."""
    pixels = images.decode(path.read_bytes()).pixels
    side = int(min(pixels.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(room - side + 1)) for room in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side]
    mirrored = square[:, ::-1] if rng.random() < 0.5 else square
    return _linear(images.resize(mirrored, size, "bilinear").astype(np.float32) / np.float32(255))


def _linear(tones: FloatMap) -> FloatMap:
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
    coarse = max(1, size // 4)  # a blur this wide leaves nothing finer
    picture = _shapes(rng, coarse, number=int(rng.integers(4, 14)))
    blurred = picture.filter(ImageFilter.GaussianBlur(coarse * rng.uniform(0.02, 0.06)))
    grown = blurred.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(grown, np.float32) / np.float32(255)


def _clutter(rng: np.random.Generator, size: int) -> FloatMap:
    """Draw a room in focus, with hard edges and lines."""
    picture = _shapes(rng, size, number=int(rng.integers(8, 24)))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 10)):
        ends = tuple((rng.uniform(0, 1, 4) * size).tolist())
        pen.line(ends, fill=_ink(rng), width=max(1, round(size * rng.uniform(0.005, 0.03))))
    return np.asarray(picture, np.float32) / np.float32(255)


def _person(rng: np.random.Generator, size: int) -> FloatMap:
    """Draw someone before a wall, in focus or not: skin that is no hand."""
    picture = _shapes(rng, size, number=int(rng.integers(0, 8)))
    pen = ImageDraw.Draw(picture)
    face = skin(rng.uniform(0, 9)) ** 0.5 * rng.uniform(0.6, 1.05)
    tone, shade = (tuple((255 * np.clip(face * k, 0, 1)).astype(int).tolist()) for k in (1.0, 0.8))
    x, y, half = rng.uniform(0.25, 0.75) * size, rng.uniform(0.2, 0.5) * size, rng.uniform(0.09, 0.2) * size
    cloth, hair = _ink(rng), tuple((255 * rng.uniform(0.02, 0.5) * np.array((1.0, 0.8, 0.6))).astype(int).tolist())
    pen.ellipse((x - 1.15 * half, y - 1.6 * half, x + 1.15 * half, y + rng.uniform(0.4, 1.8) * half), fill=hair)
    pen.rounded_rectangle((x - 2.4 * half, y + 1.7 * half, x + 2.4 * half, 1.5 * size), radius=half, fill=cloth)
    pen.rectangle((x - 0.45 * half, y + 0.9 * half, x + 0.45 * half, y + 1.9 * half), fill=shade)
    pen.ellipse((x - half, y - 1.3 * half, x + half, y + 1.35 * half), fill=tone)
    for side in (-1, 1):
        eye = x + side * 0.4 * half
        pen.ellipse((eye - 0.16 * half, y - 0.25 * half, eye + 0.16 * half, y - 0.08 * half), fill=hair)
        pen.line(
            (eye - 0.25 * half, y - 0.45 * half, eye + 0.25 * half, y - 0.47 * half), fill=hair, width=1 + size // 99
        )
    pen.ellipse((x - 0.35 * half, y + 0.62 * half, x + 0.35 * half, y + 0.8 * half), fill=shade)
    pen.line((x, y - 0.1 * half, x + 0.1 * half, y + 0.3 * half), fill=shade, width=1 + size // 99)
    blurred = picture.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.003, 0.03)))
    return np.asarray(blurred, np.float32) / np.float32(255)


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


_KINDS = {
    "plain": _plain,
    "gradient": _gradient,
    "noise": _noise,
    "blurred": _blurred_shapes,
    "clutter": _clutter,
    "person": _person,
}
KINDS = tuple(_KINDS)
