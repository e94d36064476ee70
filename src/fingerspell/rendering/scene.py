"""One synthetic picture: a hand, a camera, a light, a skin tone and a background, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fingerspell.rendering.background import draw_background
from fingerspell.rendering.body import Body, flesh_out
from fingerspell.rendering.hand import (
    FloatArray,
    Proportions,
    Skeleton,
    draw_proportions,
    forward_kinematics,
    rotation,
)
from fingerspell.rendering.poses import draw_pose
from fingerspell.rendering.raster import FloatMap, Surface, rasterise
from fingerspell.rendering.shading import draw_light, draw_palette, shade

ByteImage = NDArray[np.uint8]

SUPERSAMPLING = 2  # samples a side per pixel, against jagged edges
HAND_LENGTH = 185.0  # mm from the wrist to the longest fingertip of the mean hand
LEFT_HANDED = 0.1  # about one person in ten
SLEEVED = 0.4
_HALF_FINGER = 10.0  # mm of flesh around a joint
_DOWN = np.array((1.0, -1.0, 1.0))


@dataclass(frozen=True)
class View:
    """Where the camera stands.

    Attributes
    ----------
    turn
        Shape (3, 3): how the hand is turned against its letter's own orientation; with determinant -1 for a left hand.
    distance
        From the camera to the wrist in mm.
    scale
        Share of the picture's side that the mean hand takes stretched out.
    shift
        Shape (2,): from -1 to 1, where in the room left around the hand its middle lies.
    """

    turn: FloatArray
    distance: float
    scale: float
    shift: FloatArray


def draw_view(rng: np.random.Generator) -> View:
    """Random view, within bounds: orientation tells K from P, G from Q and U from H."""
    turn = rotation(2, rng.uniform(-20, 20)) @ rotation(1, rng.uniform(-20, 20)) @ rotation(0, rng.uniform(-15, 15))
    if rng.random() < LEFT_HANDED:
        turn = turn @ np.diag((-1.0, 1.0, 1.0))
    return View(turn, rng.uniform(450, 900), rng.uniform(0.65, 0.95), rng.uniform(-0.7, 0.7, 2))


def project(body: Body, joints: FloatArray, view: View, side: int) -> Body:
    """Body as the camera sees it, in pixels with ``y`` down.

    The hand's joints, not its forearm, are kept inside the picture as far as they fit.
    """
    near = view.distance / (view.distance - body.ends[..., 2:])
    ends = np.concatenate((body.ends[..., :2] * near, body.ends[..., 2:]), axis=-1)
    pixels, middle = _framing(joints, view, side)
    centre = np.array((side / 2, side / 2, 0.0))
    ends = (ends - np.append(middle, 0.0)) * pixels * _DOWN + centre
    return replace(body, ends=ends, radii=body.radii * near[..., 0] * pixels, dorsal=body.dorsal * _DOWN)


def _framing(joints: FloatArray, view: View, side: int) -> tuple[float, FloatArray]:
    """Pixels per mm at the wrist's distance, and the point (2,) in mm that comes to the middle of the picture."""
    pixels = side * view.scale / HAND_LENGTH
    low, high = _extent(joints, view)
    room = np.maximum(side / pixels - (high - low), 0) / 2
    return pixels, (low + high) / 2 - view.shift * room


def _extent(joints: FloatArray, view: View) -> tuple[FloatArray, FloatArray]:
    """Corners of the hand as the camera sees it, in mm at the wrist's distance, with ``y`` up."""
    seen = joints[:, :2] * view.distance / (view.distance - joints[:, 2:])
    return seen.min(0) - _HALF_FINGER, seen.max(0) + _HALF_FINGER


def draw_hand(letter: str, rng: np.random.Generator, view: View, side: int) -> Surface:
    """Surface of a random person's hand signing a letter, on a grid of ``side`` by ``side`` samples."""
    sleeve = bool(rng.random() < SLEEVED)
    skeleton, proportions = _draw_skeleton(letter, rng, view)
    body = project(flesh_out(skeleton, proportions, sleeve=sleeve), skeleton.joints, view, side)
    blend = 2.5 * side * view.scale / HAND_LENGTH  # 2.5 mm: softens joints, keeps them visible
    return rasterise(body, side, blend)


def hand_box(letter: str, rng: np.random.Generator) -> FloatArray:
    """Left, top, right and bottom (4,) of the hand that ``render_letter`` would draw, as shares of the picture.

    The hand without its forearm.
    """
    view = draw_view(rng)
    rng.random()  # spent on the sleeve
    skeleton, _ = _draw_skeleton(letter, rng, view)
    scale, middle = _framing(skeleton.joints, view, side=1)
    low, high = (0.5 + (corner - middle) * scale for corner in _extent(skeleton.joints, view))
    box: FloatArray = np.clip([low[0], 1 - high[1], high[0], 1 - low[1]], 0, 1)
    return box


def _draw_skeleton(letter: str, rng: np.random.Generator, view: View) -> tuple[Skeleton, Proportions]:
    """Bones of a random person's hand signing a letter, turned towards the camera."""
    proportions = draw_proportions(rng)
    pose = draw_pose(letter, rng)
    skeleton = forward_kinematics(pose.thumb, pose.fingers, proportions, wrist=pose.wrist)
    return skeleton.transformed(view.turn @ pose.orientation), proportions


def render_letter(letter: str, rng: np.random.Generator, size: int) -> ByteImage:
    """Synthetic picture of a letter.

    Parameters
    ----------
    letter
        One of ``fingerspell.alphabet.LETTERS``.
    rng
        Source of all that varies: person, view, light, background, noise.
    size
        Breadth and height in pixels.

    Returns
    -------
    Shape (size, size, 3), RGB.
    """
    view = draw_view(rng)
    surface = draw_hand(letter, rng, view, SUPERSAMPLING * size)
    light = draw_light(rng)
    colour = shade(surface, draw_palette(rng), light, SUPERSAMPLING * size * view.scale / HAND_LENGTH)
    scene = draw_background(rng, size)
    coverage = _shrink(surface.mask.astype(np.float32))[..., None]
    hand = np.stack([_shrink(channel) for channel in colour], axis=-1)
    return _photograph(hand + scene * (1 - coverage), rng)


def render_blank(rng: np.random.Generator, size: int) -> ByteImage:
    """Synthetic picture without a hand; shape (size, size, 3), RGB."""
    return _photograph(draw_background(rng, size), rng)


def _shrink(samples: FloatMap) -> FloatMap:
    """Mean of each block of samples."""
    return np.asarray(Image.fromarray(samples).reduce(SUPERSAMPLING))


def _photograph(linear: FloatMap, rng: np.random.Generator) -> ByteImage:
    """Camera: a little blur, gamma, sensor noise."""
    size = linear.shape[0]
    tones = np.sqrt(np.clip(linear, 0, 1)) * 255  # gamma 2, close to sRGB's
    picture = Image.fromarray(tones.astype(np.uint8))
    blurred = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.004) * size))
    grain = rng.uniform(1, 5) * rng.standard_normal((size, size, 1), np.float32)
    colour_grain = 1.5 * rng.standard_normal((size, size, 3), np.float32)
    noisy: FloatMap = np.asarray(blurred) + grain + colour_grain
    return np.clip(noisy, 0, 255).astype(np.uint8)
