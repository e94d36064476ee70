"""From a surface to colours: skin, nails and sleeve under lamps and the light of the room."""

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
SLEEVED = 0.4
MOST_LAMPS = 3


@dataclass(frozen=True)
class Lamp:
    """One lamp.

    Attributes
    ----------
    x, y, z
        Direction to it, in the picture's axes (x right, y down, z to the viewer); of length 1.
    strength
        Linear intensity.
    warmth
        From -1, cold, to 1, warm.
    """

    x: float
    y: float
    z: float
    strength: float
    warmth: float

    @property
    def colour(self) -> FloatArray:
        """Shape (3,): linear RGB intensity."""
        return self.strength * np.array((1 + 0.12 * self.warmth, 1.0, 1 - 0.12 * self.warmth))


@dataclass(frozen=True)
class Lighting:
    """One to three lamps, and the light of the room, which comes from everywhere with linear RGB intensity ``room``."""

    lamps: tuple[Lamp, ...]
    room: float


@dataclass(frozen=True)
class Looks:
    """Skin and cloth.

    Attributes
    ----------
    tone
        Place on the Monk scale from 0, very light, to 9, very dark.
    red, green, blue
        Factors on the tone's linear RGB: how one person's skin differs from the scale.
    sleeve
        Whether the arm is covered.
    sleeve_red, sleeve_green, sleeve_blue
        Linear RGB of the cloth.
    """

    tone: float
    red: float
    green: float
    blue: float
    sleeve: bool
    sleeve_red: float
    sleeve_green: float
    sleeve_blue: float


@dataclass(frozen=True)
class Palette:
    """Linear RGB colours of shape (3,): the back of the hand, the palm, the nails, and the sleeve."""

    back: FloatArray
    palm: FloatArray
    nail: FloatArray
    sleeve: FloatArray


def draw_lighting(rng: np.random.Generator) -> Lighting:
    """One lamp anywhere before the hand, more often from above; perhaps one or two fainter ones; the room's light."""
    lamps = []
    for number in range(1 + int(rng.integers(MOST_LAMPS))):
        direction = np.array((rng.uniform(-1, 1), rng.uniform(-1, 0.4), rng.uniform(0.6, 1.4)))
        x, y, z = (direction / np.linalg.norm(direction)).tolist()
        strength = rng.uniform(0.45, 0.85) if number == 0 else rng.uniform(0.1, 0.35)
        lamps.append(Lamp(x, y, z, strength, rng.uniform(-1, 1)))
    return Lighting(tuple(lamps), rng.uniform(0.2, 0.45))


def draw_looks(rng: np.random.Generator) -> Looks:
    """Skin drawn evenly along the Monk scale, each a little off it; a bare or a covered arm."""
    tone = rng.uniform(0, len(MONK_SKIN_TONES) - 1)
    red, green, blue = np.clip(1 + 0.04 * rng.standard_normal(3), 0.9, 1.1).tolist()
    return Looks(tone, red, green, blue, bool(rng.random() < SLEEVED), *rng.uniform(0.02, 0.9, 3).tolist())


def skin(tone: float) -> FloatArray:
    """Linear RGB (3,) of a place on the Monk scale."""
    tones = np.array([tuple(bytes.fromhex(tone)) for tone in MONK_SKIN_TONES]) / 255
    srgb = np.array([np.interp(tone, np.arange(len(tones)), tones[:, channel]) for channel in range(3)])
    return srgb**2


def palette(looks: Looks) -> Palette:
    """Colours of a person; palms and nails are paler than the back of a dark hand."""
    darkness = looks.tone / (len(MONK_SKIN_TONES) - 1)
    # The scale's darkest swatches are nearly grey; skin in the light is not.
    warm = 1 + darkness * np.array((0.25, 0.0, -0.15))
    back = skin(looks.tone) * (looks.red, looks.green, looks.blue) * warm
    # Palms hardly tan: their tone moves towards a light reddish one, the more the darker the skin.
    pale = np.array((0.60, 0.36, 0.26))
    palm = back + 0.25 * darkness * (pale - back)
    palm *= np.array((1.0, 0.93, 0.91))  # and blood shows through
    cloth = np.array((looks.sleeve_red, looks.sleeve_green, looks.sleeve_blue))
    return Palette(back, palm, 0.7 * palm + 0.3 * np.array((0.80, 0.55, 0.50)), cloth)


def shade(surface: Surface, colours: Palette, lighting: Lighting, scale: float, rng: np.random.Generator) -> FloatMap:
    """Linear RGB of the hand, 0 where there is none.

    Parameters
    ----------
    surface
        What the viewer sees, h by w.
    colours, lighting
        Colours and lamps.
    scale
        Pixels per mm.
    rng
        Source of the skin's blotches.

    Returns
    -------
    Shape (3, h, w).
    """
    colour = np.zeros_like(surface.normal)
    hand = np.flatnonzero(surface.mask)  # a row of pixels: part of the window is not hand
    if not hand.size:
        return colour
    normal = surface.normal.reshape(3, -1)[:, hand]
    floor = surface.height.flat[hand].min() - np.float32(20 * scale)
    height = np.where(surface.mask, surface.height, floor)
    room = _openness(height, scale).flat[hand] * (0.55 + 0.45 * normal[2])
    intensity = np.float32(lighting.room) * np.broadcast_to(room, (3, len(room)))
    gloss = np.float32(0)
    for lamp in lighting.lamps:
        direction = np.array((lamp.x, lamp.y, lamp.z), np.float32)
        facing = direction @ normal
        lit = _unshadowed(height, floor, direction, scale).flat[hand]
        # Light that enters skin leaves it nearby, red light farthest: the border of the shade is soft and reddish.
        wrap = np.array((0.35, 0.22, 0.18), np.float32)[:, None]
        intensity = intensity + _column(lamp.colour) * (np.clip((facing + wrap) / (1 + wrap), 0, 1) * lit)
        gloss = gloss + np.float32(0.12 * lamp.strength) * np.clip(facing, 0, 1) ** 12 * lit
    blotches = 1 + np.float32(0.025) * _blotches(rng, (height.shape[0], height.shape[1])).flat[hand]
    colour.reshape(3, -1)[:, hand] = _albedo(surface, hand, colours) * blotches * intensity + gloss
    return colour


def _albedo(surface: Surface, hand: NDArray[np.intp], colours: Palette) -> FloatMap:
    """Linear RGB of skin, nails and cloth for the pixels of the hand; shape (3, pixels)."""
    back = np.clip(0.9 * surface.back.flat[hand] + 0.5, 0, 1)
    albedo = _column(colours.palm) + back * _column(colours.back - colours.palm)
    albedo += surface.nail.flat[hand] * (_column(colours.nail) - albedo)
    albedo *= 1 - np.float32(0.4) * np.clip(surface.fold.flat[hand], 0, 1)
    return np.where(surface.part.flat[hand] == SLEEVE, _column(colours.sleeve), albedo)


def _blotches(rng: np.random.Generator, shape: tuple[int, int]) -> FloatMap:
    """Smooth noise of about deviation 1, coarse and fine at once; shape (h, w)."""
    noise = np.zeros(shape, np.float32)
    for cells in (12, 40, 120):
        grid = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
        noise += np.asarray(grid.resize(shape[::-1], Image.Resampling.BILINEAR))
    return noise


def _column(colour: FloatArray) -> FloatMap:
    return colour.astype(np.float32)[:, None]


def _openness(height: FloatMap, scale: float) -> FloatMap:
    """Share of the room's light that reaches a point: little where its surroundings stand nearer to the viewer."""
    open_share = np.ones_like(height)
    for radius in (4.0, 10.0):  # mm: the gap between two fingers, the hollow of a hand
        lower = _blurred(height, radius * scale) - height
        open_share *= 1 - 0.55 * np.clip(lower / np.float32(radius * scale), 0, 1)
    return open_share


def _unshadowed(height: FloatMap, floor: np.float32, direction: FloatMap, scale: float) -> FloatMap:
    """Share of the lamp's light that reaches a point: steps towards the lamp, looking for something in the way."""
    lit = np.ones_like(height)
    across = float(np.hypot(direction[0], direction[1]))
    if across < 0.05:  # the lamp stands behind the camera: it sees what the camera sees
        return lit
    for step in (5.0, 9.0, 14.0, 22.0, 34.0):  # mm across the picture
        dx, dy = (round(float(step * scale * direction[axis] / across)) for axis in (0, 1))
        ray = np.float32(np.hypot(dx, dy) * direction[2] / across)
        ahead = _moved(height, dy, dx, floor) - height - ray
        # 1 mm of grace and a soft border of 6 mm: a rounded finger must not stripe itself.
        np.minimum(lit, 1 - 0.75 * np.clip((ahead / np.float32(scale) - 1) / 6, 0, 1), out=lit)
    return lit


def _blurred(values: FloatMap, radius: float) -> FloatMap:
    """Mean over about ``radius`` pixels to each side, on a coarser grid: its cost does not grow with the radius."""
    height, width = values.shape
    rows, columns = (max(1, min(side, round(2 * side / radius))) for side in (height, width))
    small = np.asarray(Image.fromarray(values).resize((columns, rows), Image.Resampling.BOX))
    padded = np.pad(small, 2, mode="edge")
    mean = sliding_window_view(sliding_window_view(padded, 5, axis=0).mean(-1), 5, axis=1).mean(-1)
    return np.asarray(Image.fromarray(mean).resize((width, height), Image.Resampling.BILINEAR))


def _moved(values: FloatMap, down: int, right: int, beyond: np.float32) -> FloatMap:
    """What lies so many pixels further down and to the right of each; ``beyond`` outside."""
    moved = np.full_like(values, beyond)
    height, width = values.shape
    rows, columns = height - abs(down), width - abs(right)
    if rows > 0 and columns > 0:
        into = (slice(max(0, -down), max(0, -down) + rows), slice(max(0, -right), max(0, -right) + columns))
        out_of = (slice(max(0, down), max(0, down) + rows), slice(max(0, right), max(0, right) + columns))
        moved[into] = values[out_of]
    return moved
