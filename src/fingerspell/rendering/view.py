"""Where the camera stands, and what of space it sees where in the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fingerspell.rendering.hand import FloatArray, rotation

if TYPE_CHECKING:
    from fingerspell.rendering.body import Body

HAND_LENGTH = 185.0  # mm from the wrist to the longest fingertip of the mean hand
_HALF_FINGER = 10.0  # mm of flesh around a joint, about
_DOWN = np.array((1.0, -1.0, 1.0))

# Within these turns a letter stays itself: orientation tells K from P, G from Q and U from H.
ROLL, YAW, PITCH = (-22.0, 22.0), (-25.0, 25.0), (-18.0, 18.0)  # degrees
DISTANCE = (420.0, 1000.0)  # mm
SCALE = (0.33, 0.58)  # a detector of hands expects some room around one
SHIFT = (-0.8, 0.8)
LEFT_HANDED = 0.2


@dataclass(frozen=True)
class View:
    """Where the camera stands.

    Attributes
    ----------
    roll, yaw, pitch
        Degrees by which the hand is turned against its sign's own orientation, as in ``Pose``.
    left
        Whether it is a left hand.
    distance
        From the camera to the wrist in mm.
    scale
        Share of the picture's side that the mean hand takes stretched out.
    shift_x, shift_y
        From -1 to 1, left to right and top to bottom, where in the room left around the hand its middle lies.
    """

    roll: float
    yaw: float
    pitch: float
    left: bool
    distance: float
    scale: float
    shift_x: float
    shift_y: float

    @property
    def turn(self) -> FloatArray:
        """Shape (3, 3): how the hand is turned; with determinant -1 for a left hand."""
        turn = rotation(2, self.roll) @ rotation(1, self.yaw) @ rotation(0, self.pitch)
        return turn @ np.diag((-1.0, 1.0, 1.0)) if self.left else turn


def draw_view(rng: np.random.Generator) -> View:
    """Random view, within the bounds above."""
    roll, yaw, pitch = (rng.uniform(*bounds) for bounds in (ROLL, YAW, PITCH))
    left = bool(rng.random() < LEFT_HANDED)
    return View(
        roll, yaw, pitch, left, rng.uniform(*DISTANCE), rng.uniform(*SCALE), rng.uniform(*SHIFT), rng.uniform(*SHIFT)
    )


@dataclass(frozen=True)
class Frame:
    """The picture's place in space: it holds a hand's joints, not its forearm, as far as they fit.

    Attributes
    ----------
    distance
        From the camera to the wrist in mm.
    scale
        Sides of the picture per mm at the wrist's distance.
    middle
        Shape (2,): point in mm at the wrist's distance that is seen in the middle of the picture.
    """

    distance: float
    scale: float
    middle: FloatArray

    def seen(self, points: FloatArray) -> FloatArray:
        """Points (..., 3) in mm as x and y in shares of the picture's sides, y down, and z to the viewer alike."""
        flat = points[..., :2] * _nearness(points, self.distance)[..., None] - self.middle
        shares: FloatArray = np.concatenate((flat, points[..., 2:]), axis=-1) * self.scale * _DOWN
        shares[..., :2] += 0.5
        return shares

    def project(self, body: Body, side: int) -> Body:
        """Body in pixels of a picture with so many a side, with ``y`` down."""
        radii = body.radii * _nearness(body.ends, self.distance) * self.scale * side
        return replace(body, ends=self.seen(body.ends) * side, radii=radii, dorsal=body.dorsal * _DOWN)

    def box(self, joints: FloatArray) -> FloatArray:
        """Left, top, right and bottom (4,) of a hand's joints (21, 3) and the flesh around them, in shares."""
        seen, flesh = self.seen(joints)[:, :2], _HALF_FINGER * self.scale
        box: FloatArray = np.clip([*(seen.min(0) - flesh), *(seen.max(0) + flesh)], 0, 1)
        return box


def frame(joints: FloatArray, view: View) -> Frame:
    """Frame of a view at joints (n, 3) in mm."""
    scale = view.scale / HAND_LENGTH
    flat = joints[:, :2] * _nearness(joints, view.distance)[:, None]
    low, high = flat.min(0) - _HALF_FINGER, flat.max(0) + _HALF_FINGER
    room = np.maximum(1 / scale - (high - low), 0) / 2
    return Frame(view.distance, scale, (low + high) / 2 - (view.shift_x, -view.shift_y) * room)


def _nearness(points: FloatArray, distance: float) -> FloatArray:
    """How much larger points (..., 3) are seen than at the wrist's distance, (...)."""
    nearness: FloatArray = distance / (distance - points[..., 2])
    return nearness
