"""From light to the bytes of a photo: exposure, blur, noise, compression."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from fingerspell.rendering.raster import FloatMap

ByteImage = NDArray[np.uint8]

_BRIGHTEST = 0.95  # an exposure that leaves a hundredth of the picture brighter than this is shortened


@dataclass(frozen=True)
class Camera:
    """What a camera makes of a scene.

    Attributes
    ----------
    exposure
        Mean linear brightness that it aims at.
    focus
        Radius of the blur of everything, in shares of the picture's side.
    motion, motion_angle
        Way that the hand moves while the picture is taken, in shares of the side; its direction in degrees.
    grain, colour_grain
        Standard deviation of the sensor's noise, in steps of 255: of brightness, and of each colour.
    quality
        Of the JPEG that the picture has been, 1 to 95; 0 for none.
    """

    exposure: float
    focus: float
    motion: float
    motion_angle: float
    grain: float
    colour_grain: float
    quality: int


def draw_camera(rng: np.random.Generator, *, moving: bool = False) -> Camera:
    """Random camera: good ones more often than bad ones. Hands that sign J and Z blur more."""
    blurred = rng.random() < (0.7 if moving else 0.25)
    return Camera(
        exposure=rng.uniform(0.15, 0.35),
        focus=rng.uniform(0, 0.07) ** 2,  # 0 to 0.005
        motion=rng.uniform(0.005, 0.03) if blurred else 0.0,
        motion_angle=rng.uniform(0, 180),
        grain=rng.uniform(0.5, 4),
        colour_grain=rng.uniform(0.3, 2),
        quality=int(rng.integers(30, 96)) if rng.random() < 0.6 else 0,
    )


def photograph(
    hand: FloatMap, coverage: FloatMap, behind: FloatMap, camera: Camera, rng: np.random.Generator
) -> ByteImage:
    """Take a picture.

    Parameters
    ----------
    hand
        Shape (size, size, 3): linear RGB of the hand, weighted by its coverage.
    coverage
        Shape (size, size): share of each pixel that the hand covers.
    behind
        Shape (size, size, 3): linear RGB of the background.
    camera
        What it does.
    rng
        Source of its noise.

    Returns
    -------
    Shape (size, size, 3), RGB.
    """
    size = len(behind)
    if camera.motion:
        layers = np.concatenate((hand, coverage[..., None]), axis=-1)
        layers = _smeared(layers, camera.motion * size, camera.motion_angle)
        hand, coverage = layers[..., :3], layers[..., 3]
    linear = behind * (1 - coverage[..., None])
    linear += hand
    linear *= np.float32(_gain(linear, camera.exposure))
    tones = np.sqrt(np.clip(linear, 0, 1, out=linear), out=linear)  # gamma 2, close to sRGB's
    tones *= 255
    photo = Image.fromarray(tones.astype(np.uint8)).filter(ImageFilter.GaussianBlur(camera.focus * size))
    noisy = rng.standard_normal((size, size, 3), np.float32)
    noisy *= np.float32(camera.colour_grain)
    noisy += np.float32(camera.grain) * rng.standard_normal((size, size, 1), np.float32)
    noisy += np.asarray(photo)
    picture: ByteImage = np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)
    return _compressed(picture, camera.quality) if camera.quality else picture


def _gain(linear: FloatMap, exposure: float) -> float:
    """Exposure of a camera that aims at a mean brightness, and leaves the brightest places their shade."""
    sample = linear[::4, ::4]
    wanted = exposure / max(float(sample.mean()), 1e-3)
    return min(max(wanted, 0.6), 4.0, _BRIGHTEST / max(float(np.quantile(sample, 0.99)), 1e-3))


def _smeared(layers: FloatMap, length: float, degrees: float) -> FloatMap:
    """Mean of layers (size, size, n) moved along a line; at the picture's edge they stay as they are."""
    steps = max(1, round(length))
    across, down = (turn(np.radians(degrees)) * length for turn in (np.cos, np.sin))
    margin = steps // 2 + 1
    padded = np.pad(layers, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    mean = np.zeros_like(layers)
    for step in np.linspace(-0.5, 0.5, steps + 1).tolist():
        top, left = margin + round(step * down), margin + round(step * across)
        mean += padded[top : top + len(layers), left : left + len(layers)]
    mean /= np.float32(steps + 1)
    return mean


def _compressed(picture: ByteImage, quality: int) -> ByteImage:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, format="JPEG", quality=quality)
    return np.asarray(Image.open(data, formats=["JPEG"]))
