"""The skeleton of a hand: 21 joints, bones of a person's own length, and forward kinematics.

The hand's frame, in millimetres: the origin is the wrist of a right hand whose palm faces the viewer with the fingers
up; ``+x`` points to the thumb's side (the viewer's right), ``+y`` to the fingertips, ``+z`` out of the palm.

Joints stand in the order of MediaPipe Hands: wrist; then thumb CMC, MCP, IP, tip; then MCP, PIP, DIP, tip of the index,
middle, ring and little finger. A tip is the centre of the ball that closes the finger, one radius short of its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

DIGITS = ("thumb", "index", "middle", "ring", "little")
JOINTS = 21
WRIST, THUMB_CMC, INDEX_MCP, MIDDLE_MCP, RING_MCP, LITTLE_MCP = 0, 1, 5, 9, 13, 17

# Mean lengths in mm after Buryanov & Kotiuk (2010), "Proportions of hand segments", Int. J. Morphol. 28(3):755-758.
_METACARPALS = (68.12, 64.60, 58.00, 53.69)  # index to little
_THUMB = (46.22, 31.57, 21.67 + 5.67)  # metacarpal, proximal, distal + soft tissue of the tip
_FINGERS = (  # proximal, middle, distal + soft tissue of the tip
    (39.78, 22.38, 15.82 + 3.84),
    (44.63, 26.33, 17.40 + 3.95),
    (41.37, 25.65, 17.30 + 3.95),
    (32.74, 18.11, 15.96 + 3.73),
)
# Half the breadth in mm at each joint of a digit, base to tip: adult fingers are 16 to 21 mm broad, thumbs 22 mm.
_RADII = (
    (13.5, 11.5, 10.5, 8.8),
    (11.0, 9.8, 8.5, 7.2),
    (11.2, 9.9, 8.6, 7.3),
    (10.6, 9.3, 8.1, 6.9),
    (9.6, 8.0, 7.1, 6.1),
)
# How far joints bend in degrees: the ranges of Lin, Wu & Huang (2000), "Modeling the constraints of human hand motion",
# Workshop on Human Motion: 0-90, 0-110, 0-90, spread 15 to each side; widened by a few degrees, for people differ, and
# for the outer fingers, which spread further.
LIMITS = {"mcp": (-10.0, 98.0), "pip": (0.0, 115.0), "dip": (-10.0, 92.0), "spread": (-25.0, 25.0)}
# Foot of each metacarpal in mm from the wrist (x, y, z), thumb first. The feet lie about 25 mm up, the height of the
# carpus; the outer ones lie nearer to the palm's side than the middle: the transverse arch.
_FEET = ((16.0, 20.0, 8.0), (12.0, 25.0, 0.0), (2.0, 26.0, -2.0), (-7.0, 25.0, -1.0), (-15.0, 23.0, 2.0))
_LEAN = (8.0, 0.0, -7.0, -15.0)  # degrees by which a finger's metacarpal leans to the thumb, index to little


class Finger(NamedTuple):
    """Joint angles of a finger in degrees: flexion of each joint, and spread towards the thumb's side."""

    mcp: float
    pip: float
    dip: float
    spread: float = 0.0

    def limited(self) -> Finger:
        """Finger that bends no further than a joint can."""
        return Finger(*(min(max(angle, low), high) for angle, (low, high) in zip(self, LIMITS.values(), strict=True)))


class Thumb(NamedTuple):
    """Joint angles of the thumb in degrees.

    The metacarpal leans ``radial`` out of the hand's side and ``palmar`` out of the palm; ``pronation`` turns the
    thumb about its own length: at 0 it bends out of the palm, at 90 across it, near 180 back into it. ``mcp`` and
    ``ip`` are flexions.
    """

    radial: float
    palmar: float
    pronation: float
    mcp: float
    ip: float


@dataclass(frozen=True)
class Proportions:
    """What makes one person's hand: lengths and thicknesses in millimetres.

    Attributes
    ----------
    metacarpals
        Shape (4,): the bones inside the palm, index to little finger.
    bones
        Shape (5, 3): the free bones of each digit, thumb first, base to tip.
    radii
        Shape (5, 4): half the breadth at each joint of a digit, base to tip.
    breadth
        Factor on the palm's breadth; 1 is the mean hand.
    """

    metacarpals: FloatArray
    bones: FloatArray
    radii: FloatArray
    breadth: float


@dataclass(frozen=True)
class Skeleton:
    """A posed hand.

    Attributes
    ----------
    joints
        Shape (21, 3): positions in mm.
    dorsal
        Shape (21, 3): for each joint, the unit vector out of the back of the bone that ends there.
    forearm
        Shape (3,): unit vector from the wrist to the elbow.
    """

    joints: FloatArray
    dorsal: FloatArray
    forearm: FloatArray

    def transformed(self, matrix: FloatArray) -> Skeleton:
        """Skeleton under a linear map of shape (3, 3): a rotation, or the mirror that makes a left hand."""
        return Skeleton(self.joints @ matrix.T, self.dorsal @ matrix.T, self.forearm @ matrix.T)


def rotation(axis: int, degrees: float) -> FloatArray:
    """Right-handed rotation about axis 0 (x), 1 (y) or 2 (z), as a matrix of shape (3, 3)."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def mean_proportions() -> Proportions:
    """Proportions of the mean adult hand."""
    radii = np.array(_RADII)
    bones = np.array((_THUMB, *_FINGERS))
    bones[:, 2] -= radii[:, 3]  # a tip is the centre of the closing ball
    return Proportions(np.array(_METACARPALS), bones, radii, breadth=1.0)


def draw_proportions(rng: np.random.Generator) -> Proportions:
    """Proportions of a random person: slender to sturdy, short to long fingers."""
    mean = mean_proportions()
    long_fingers = _bounded_factor(rng, 0.05)
    thick = _bounded_factor(rng, 0.08)
    return Proportions(
        metacarpals=mean.metacarpals * _bounded_factor(rng, 0.02, mean.metacarpals.shape),
        bones=mean.bones * long_fingers * _bounded_factor(rng, 0.02, mean.bones.shape),
        radii=mean.radii * thick * _bounded_factor(rng, 0.02, (len(DIGITS), 1)),
        breadth=float(_bounded_factor(rng, 0.05)),
    )


def forward_kinematics(
    thumb: Thumb,
    fingers: tuple[Finger, Finger, Finger, Finger],
    proportions: Proportions,
    *,
    wrist: float = 0.0,
) -> Skeleton:
    """Pose the bones by their joint angles.

    Parameters
    ----------
    thumb, fingers
        Joint angles in degrees; the fingers from index to little.
    proportions
        Bone lengths.
    wrist
        Flexion of the wrist in degrees: how far the palm bends towards the inner side of the forearm.

    Returns
    -------
    The skeleton in the hand's frame.
    """
    joints = np.zeros((JOINTS, 3))
    dorsal = np.tile((0.0, 0.0, -1.0), (JOINTS, 1))
    widen = np.array((proportions.breadth, 1.0, 1.0))
    chains = [_thumb_chain(thumb)] + [_finger_chain(finger) for finger in fingers]
    for digit, frames in enumerate(chains):
        base = THUMB_CMC + 4 * digit
        joints[base] = widen * _FEET[digit]
        if digit > 0:
            joints[base] += rotation(2, -_LEAN[digit - 1]) @ (0.0, proportions.metacarpals[digit - 1], 0.0)
        for bone, frame in enumerate(frames):  # each bone runs along the y axis of its frame
            joints[base + bone + 1] = joints[base + bone] + proportions.bones[digit, bone] * frame[:, 1]
            dorsal[base + bone + 1] = -frame[:, 2]
    return Skeleton(joints, dorsal, forearm=rotation(0, -wrist) @ (0.0, -1.0, 0.0))


def _thumb_chain(thumb: Thumb) -> list[FloatArray]:
    """Frames of the thumb's metacarpal, proximal and distal bone."""
    metacarpal = rotation(2, -thumb.radial) @ rotation(0, thumb.palmar) @ rotation(1, -thumb.pronation)
    proximal = metacarpal @ rotation(0, thumb.mcp)
    return [metacarpal, proximal, proximal @ rotation(0, thumb.ip)]


def _finger_chain(finger: Finger) -> list[FloatArray]:
    """Frames of a finger's proximal, middle and distal bone."""
    proximal = rotation(2, -finger.spread) @ rotation(0, finger.mcp)
    middle = proximal @ rotation(0, finger.pip)
    return [proximal, middle, middle @ rotation(0, finger.dip)]


def _bounded_factor(rng: np.random.Generator, deviation: float, shape: tuple[int, ...] = ()) -> FloatArray:
    """Factors around 1 with a standard deviation, none further than two of them: no monsters."""
    return 1 + deviation * np.clip(rng.standard_normal(shape), -2, 2)
