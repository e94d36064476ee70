"""The 26 letters of the American manual alphabet as joint angles, and how two people's differ.

All angles are degrees. A pose is that of a right hand; how each joint turns is told in ``fingerspell.rendering.hand``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fingerspell.rendering.hand import Finger, FloatArray, Thumb, rotation


@dataclass(frozen=True)
class Pose:
    """One letter's handshape and the way the hand is turned.

    Attributes
    ----------
    thumb, index, middle, ring, little
        Joint angles.
    pitch, yaw, roll
        Turns of the whole hand from "palm to the viewer, fingers up", applied in this order: pitch tips the fingers
        towards the viewer, yaw turns a right hand's palm to the viewer's right, roll turns the picture's plane
        counter-clockwise.
    wrist
        Flexion of the wrist: bends the hand against the forearm, without moving the hand in the picture.
    """

    thumb: Thumb
    index: Finger
    middle: Finger
    ring: Finger
    little: Finger
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
    wrist: float = 0.0

    @property
    def fingers(self) -> tuple[Finger, Finger, Finger, Finger]:
        """The four fingers, index to little."""
        return self.index, self.middle, self.ring, self.little

    @property
    def orientation(self) -> FloatArray:
        """Shape (3, 3): rotation from the hand's frame to the viewer's."""
        return rotation(2, self.roll) @ rotation(1, self.yaw) @ rotation(0, self.pitch)


# Fingers that recur: straight, closed into the palm, and closed as far as a thumb underneath allows.
UP = Finger(4, 6, 4)
FIST = Finger(82, 98, 62)
FIST_LITTLE = Finger(78, 98, 62, 4)  # the little finger leans to the fist's middle

POSES: dict[str, Pose] = {
    # Fists, told apart by the thumb: beside the index (A), across the front (S), under one (T), two (N) or three (M)
    # fingers, or under the tips of all (E).
    "A": Pose(Thumb(48, 28, 111, 60, 11), FIST, FIST, FIST, FIST_LITTLE),
    "S": Pose(Thumb(12, 46, 105, 25, 59), FIST, FIST, FIST, FIST_LITTLE),
    "T": Pose(Thumb(-2, 22, 162, -1, 5), Finger(60, 98, 45, 7), Finger(86, 98, 62, -2), FIST, FIST_LITTLE),
    "N": Pose(
        Thumb(-8, 42, 162, 40, -10), Finger(74, 74, 26, 1), Finger(74, 74, 26, 2), Finger(86, 98, 62, -2), FIST_LITTLE
    ),
    "M": Pose(
        Thumb(-14, 46, 148, 55, -10),
        Finger(74, 74, 26),
        Finger(74, 74, 26),
        Finger(74, 74, 26),
        Finger(86, 98, 62, -1),
    ),
    "E": Pose(
        Thumb(24, 38, 90, 60, 66),
        Finger(42, 112, 38),
        Finger(42, 112, 38),
        Finger(42, 112, 38),
        Finger(44, 112, 38, 4),
    ),
    # All fingers up.
    "B": Pose(Thumb(21, 28, 97, 60, 71), Finger(3, 5, 3), Finger(3, 5, 3), Finger(3, 5, 3), Finger(3, 5, 3)),
    # Round hands: open (C), closed (O), closed but for the index (D), closed by the index alone (F).
    "C": Pose(
        Thumb(27, 75, 128, 57, -10),
        Finger(32, 48, 30),
        Finger(32, 48, 30),
        Finger(32, 48, 30, 2),
        Finger(34, 48, 30, 4),
        yaw=50,
    ),
    "O": Pose(
        Thumb(0, 62, 173, 41, -10),
        Finger(50, 62, 38, -3),
        Finger(52, 60, 38),
        Finger(54, 58, 38, 2),
        Finger(58, 56, 38, 6),
        yaw=50,
    ),
    "D": Pose(
        Thumb(12, 73, 144, 57, -10),
        UP,
        Finger(58, 66, 40),
        Finger(60, 64, 40, 2),
        Finger(62, 62, 40, 6),
        yaw=25,
    ),
    "F": Pose(
        Thumb(28, 27, 41, 19, 50),
        Finger(54, 64, 30, 4),
        Finger(3, 6, 4),
        Finger(2, 5, 3, -7),
        Finger(2, 5, 3, -15),
        yaw=-15,
    ),
    # One or two fingers pointing sideways, the back of the hand to the viewer (G, H), or down (Q).
    "G": Pose(Thumb(29, 26, 137, 38, -3), Finger(8, 5, 4), FIST, FIST, FIST_LITTLE, yaw=-145, roll=-90),
    "Q": Pose(Thumb(29, 26, 137, 38, -3), Finger(8, 5, 4), FIST, FIST, FIST_LITTLE, pitch=140, yaw=-35, wrist=75),
    "H": Pose(Thumb(-1, 68, 153, 60, 15), UP, UP, FIST, FIST_LITTLE, yaw=-155, roll=-90),
    # Index up and middle finger forward, the thumb between them: upright (K), turned down (P).
    "K": Pose(Thumb(7, 19, 140, 27, -10), Finger(3, 5, 3, 2), Finger(48, 8, 5), FIST, FIST_LITTLE, yaw=-15),
    "P": Pose(
        Thumb(7, 19, 140, 27, -10),
        Finger(3, 5, 3, 2),
        Finger(48, 8, 5),
        FIST,
        FIST_LITTLE,
        pitch=110,
        yaw=-55,
        wrist=60,
    ),
    # Two or three fingers up: together (U), apart (V), crossed (R), three (W).
    "U": Pose(Thumb(-1, 68, 153, 60, 15), Finger(4, 6, 4, -1), Finger(4, 6, 4, 1), FIST, FIST_LITTLE),
    "V": Pose(Thumb(-1, 68, 153, 60, 15), Finger(4, 6, 4, 10), Finger(4, 6, 4, -9), FIST, FIST_LITTLE),
    "R": Pose(Thumb(-2, 66, 156, 60, 10), Finger(14, 6, 4, -8), Finger(1, 4, 3, 13), FIST, FIST_LITTLE),
    "W": Pose(
        Thumb(-11, 67, 145, 60, 34),
        Finger(4, 6, 4, 10),
        UP,
        Finger(4, 6, 4, -10),
        Finger(76, 92, 55, 4),
    ),
    # One finger: index hooked (X), up in mid-zigzag (Z), with the thumb out (L); little finger up (I), in mid-hook
    # with the palm turning to the signer (J), with the thumb out (Y).
    "X": Pose(Thumb(25, 43, 88, 35, 56), Finger(22, 98, 58), FIST, FIST, FIST_LITTLE, yaw=-35),
    "Z": Pose(Thumb(17, 42, 92, 25, 62), UP, FIST, FIST, FIST_LITTLE, pitch=25, roll=-30),
    "L": Pose(Thumb(62, 8, 90, 0, -5), Finger(3, 5, 3, 2), FIST, FIST, FIST_LITTLE),
    "I": Pose(Thumb(25, 46, 96, 36, 51), FIST, FIST, FIST, Finger(4, 6, 4, -4)),
    "J": Pose(Thumb(25, 46, 96, 36, 51), FIST, FIST, FIST, Finger(4, 6, 4, -4), pitch=30, yaw=60, roll=-30),
    "Y": Pose(Thumb(58, 10, 90, 0, -5), FIST, FIST, FIST, Finger(4, 6, 4, -22)),
}


def draw_pose(letter: str, rng: np.random.Generator) -> Pose:
    """One person's way to sign a letter: its pose with every joint a few degrees off.

    A finger's joints share most of their deviation: who curls loosely curls loosely throughout.
    """
    pose = POSES[letter]
    index, middle, ring, little = (_loosened(finger, rng) for finger in pose.fingers)
    thumb = Thumb(*(angle + 3 * _bounded(rng) for angle in pose.thumb))
    wrist = pose.wrist + 6 * _bounded(rng)
    return replace(pose, thumb=thumb, index=index, middle=middle, ring=ring, little=little, wrist=wrist)


def _loosened(finger: Finger, rng: np.random.Generator) -> Finger:
    loose = 4 * _bounded(rng)
    mcp, pip, dip = (angle + loose + 3 * _bounded(rng) for angle in (finger.mcp, finger.pip, finger.dip))
    return Finger(mcp, pip, dip, finger.spread + 1.5 * _bounded(rng))


def _bounded(rng: np.random.Generator) -> float:
    """Draw a standard normal deviate cut at two deviations: a letter must stay that letter."""
    return float(np.clip(rng.standard_normal(), -2, 2))
