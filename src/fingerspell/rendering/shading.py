"""From a surface to colours: skin, nails and sleeve under one lamp and the light of the room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from fingerspell.rendering.body import SLEEVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fingerspell.rendering.hand import FloatArray
    from fingerspell.rendering.raster import FloatMap, Surface

# The ten tones of the Monk Skin Tone Scale (Ellis Monk, 2019; skintone.google), very light to very dark.
MONK_SKIN_TONES = (
    "f6ede4",
    "f3e7db",
    "f7ead0",
    "eadaba",
    "d7bd96",
    "a07e56",
    "825c43",
    "604134",
    "3a312a",
    "292420",
)


@dataclass(frozen=True)
class Light:
    """One lamp and the light of the room.

    Attributes
    ----------
    direction
        Shape (3,): unit vector to the lamp, in the picture's axes (x right, y down, z to the viewer).
    lamp, room
        Shape (3,): linear RGB intensities.
    """

    direction: FloatArray
    lamp: FloatArray
    room: FloatArray


@dataclass(frozen=True)
class Palette:
    """Linear RGB colours of shape (3,): the back of the hand, the palm, the nails, and the sleeve if there is one."""

    back: FloatArray
    palm: FloatArray
    nail: FloatArray
    sleeve: FloatArray


def draw_light(rng: np.random.Generator) -> Light:
    """Lamp anywhere in front of the hand, more often from above, warm to cold; the room lit from dim to bright."""
    direction = np.array((rng.uniform(-1, 1), rng.uniform(-1, 0.4), rng.uniform(0.6, 1.4)))
    warmth = rng.uniform(-0.12, 0.12)
    tint = np.array((1 + warmth, 1.0, 1 - warmth))
    lamp, room = rng.uniform(0.45, 0.85), rng.uniform(0.2, 0.4)
    return Light(direction / np.linalg.norm(direction), lamp * tint, room * (2 - tint))


def draw_palette(rng: np.random.Generator) -> Palette:
    """Skin tone drawn evenly along the Monk scale; palms and nails are paler than the back of a dark hand."""
    tones = np.array([tuple(bytes.fromhex(tone)) for tone in MONK_SKIN_TONES]) / 255
    place = rng.uniform(0, len(tones) - 1)
    srgb = np.array([np.interp(place, np.arange(len(tones)), tones[:, channel]) for channel in range(3)])
    back = srgb**2 * np.clip(1 + 0.04 * rng.standard_normal(3), 0.9, 1.1)
    # Palms hardly tan: their tone moves towards a light reddish one, the more the darker the skin.
    pale = np.array((0.60, 0.36, 0.26))
    darkness = place / (len(tones) - 1)
    palm = back + 0.25 * darkness * (pale - back)
    palm *= np.array((1.0, 0.93, 0.91))  # and blood shows through
    return Palette(back, palm, 0.7 * palm + 0.3 * np.array((0.80, 0.55, 0.50)), rng.uniform(0.02, 0.9, 3))


def shade(surface: Surface, palette: Palette, light: Light, scale: float) -> FloatMap:
    """Linear RGB of the hand, 0 where there is none.

    Parameters
    ----------
    surface
        What the viewer sees, h by w.
    palette, light
        Colours and lamp.
    scale
        Pixels per mm.

    Returns
    -------
    Shape (3, h, w).
    """
    colour = np.zeros_like(surface.normal)
    hand = np.flatnonzero(surface.mask)  # a row of pixels: most of the picture is not hand
    if not hand.size:
        return colour
    normal = surface.normal.reshape(3, -1)[:, hand]
    floor = surface.height.flat[hand].min() - np.float32(20 * scale)
    height = np.where(surface.mask, surface.height, floor)
    direction = light.direction.astype(np.float32)
    facing = direction @ normal
    lit = _unshadowed(height, direction, scale).flat[hand]
    # Light that enters skin leaves it nearby, red light farthest: the border of the shade is soft and reddish.
    wrap = np.array((0.35, 0.22, 0.18), np.float32)[:, None]
    lamp = np.clip((facing + wrap) / (1 + wrap), 0, 1) * lit
    room = _openness(height, scale).flat[hand] * (0.55 + 0.45 * normal[2])
    gloss = 0.10 * np.clip(facing, 0, 1) ** 12 * lit
    intensity = _column(light.lamp) * lamp + _column(light.room) * room
    colour.reshape(3, -1)[:, hand] = _albedo(surface, hand, palette) * intensity + gloss
    return colour


def _albedo(surface: Surface, hand: NDArray[np.intp], palette: Palette) -> FloatMap:
    """Linear RGB of skin, nails and cloth for the pixels of the hand; shape (3, pixels)."""
    back = np.clip(0.9 * surface.back.flat[hand] + 0.5, 0, 1)
    albedo = _column(palette.palm) + back * _column(palette.back - palette.palm)
    albedo += surface.nail.flat[hand] * (_column(palette.nail) - albedo)
    return np.where(surface.part.flat[hand] == SLEEVE, _column(palette.sleeve), albedo)


def _column(colour: FloatArray) -> FloatMap:
    return colour.astype(np.float32)[:, None]


def _openness(height: FloatMap, scale: float) -> FloatMap:
    """Share of the room's light that reaches a point: little where its surroundings stand nearer to the viewer."""
    open_share = np.ones_like(height)
    for radius in (4.0, 10.0):  # mm: the gap between two fingers, the hollow of a hand
        lower = _blurred(height, radius * scale) - height
        open_share *= 1 - 0.55 * np.clip(lower / np.float32(radius * scale), 0, 1)
    return open_share


def _unshadowed(height: FloatMap, direction: FloatMap, scale: float) -> FloatMap:
    """Share of the lamp's light that reaches a point: steps towards the lamp, looking for something in the way."""
    lit = np.ones_like(height)
    across = float(np.hypot(direction[0], direction[1]))
    if across < 0.05:  # the lamp stands behind the camera: it sees what the camera sees
        return lit
    for step in (5.0, 9.0, 14.0, 22.0, 34.0):  # mm across the picture
        dx, dy = (round(float(step * scale * direction[axis] / across)) for axis in (0, 1))
        ray = np.float32(np.hypot(dx, dy) * direction[2] / across)
        ahead = np.roll(height, (-dy, -dx), (0, 1)) - height - ray
        # 1 mm of grace and a soft border of 6 mm: a rounded finger must not stripe itself.
        np.minimum(lit, 1 - 0.75 * np.clip((ahead / np.float32(scale) - 1) / 6, 0, 1), out=lit)
    return lit


def _blurred(values: FloatMap, radius: float) -> FloatMap:
    """Mean over about ``radius`` pixels to each side, on a coarser grid: its cost does not grow with the radius."""
    side = values.shape[0]
    coarse = max(1, min(side, round(2 * side / radius)))
    small = np.asarray(Image.fromarray(values).resize((coarse, coarse), Image.Resampling.BOX))
    padded = np.pad(small, 2, mode="edge")
    rows = sliding_window_view(padded, 5, axis=0).mean(-1)
    mean = sliding_window_view(rows, 5, axis=1).mean(-1)
    return np.asarray(Image.fromarray(mean).resize((side, side), Image.Resampling.BILINEAR))
