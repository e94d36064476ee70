"""The 26 letters of the American manual alphabet as joint angles, signs that are no letter, and how people differ.

All angles are degrees. A pose is that of a right hand; how each joint turns is told in ``fingerspell.rendering.hand``.
"""

from __future__ import annotations

import math
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
    "A": Pose(
        Thumb(49, 26, 108, 60, 12),
        Finger(82, 99, 61, 4),
        Finger(81, 95, 60, 2),
        Finger(86, 96, 60),
        Finger(78, 92, 61, 3),
        pitch=-10,
        yaw=5,
    ),
    "S": Pose(
        Thumb(9, 48, 97, 46, 51),
        Finger(90, 112, 62, 4),
        Finger(95, 107, 52, -3),
        Finger(87, 90, 74, -2),
        Finger(83, 95, 58),
        pitch=-20,
        yaw=18,
    ),
    "T": Pose(
        Thumb(14, 26, 145, 33, 17),
        Finger(60, 84, 41, 9),
        Finger(97, 94, 62, 2),
        Finger(96, 108, 63, -3),
        Finger(76, 92, 55, 7),
        pitch=-12,
        yaw=6,
    ),
    "N": Pose(
        Thumb(14, 20, 118, 57, -6),
        Finger(80, 66, 8, 8),
        Finger(72, 72, 20),
        Finger(94, 99, 43, -6),
        Finger(86, 99, 62, -11),
        pitch=-3,
        yaw=27,
    ),
    "M": Pose(
        Thumb(-9, 42, 152, 64, -10),
        Finger(96, 66, 23, 6),
        Finger(82, 75, 25, -1),
        Finger(82, 75, 13, -3),
        Finger(97, 89, 56, -5),
        pitch=17,
        yaw=-3,
    ),
    "E": Pose(
        Thumb(29, 34, 98, 75, 71),
        Finger(64, 108, 34, 1),
        Finger(57, 113, 33, -2),
        Finger(55, 105, 34, 3),
        Finger(44, 109, 34, 6),
        pitch=-24,
        yaw=6,
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
        Thumb(14, 77, 144, 62, -10),
        Finger(7, 7, 4, -1),
        Finger(70, 68, 39),
        Finger(67, 66, 41, 1),
        Finger(60, 65, 42, 6),
        yaw=25,
    ),
    "F": Pose(
        Thumb(18, 12, 37, 31, 47),
        Finger(56, 67, 27, -1),
        Finger(15, 10, 0, -6),
        Finger(13, 4, 7, -10),
        Finger(5, 16, 2, -13),
        pitch=12,
    ),
    # One or two fingers pointing sideways, the back of the hand to the viewer (G, H), or down (Q).
    "G": Pose(Thumb(29, 26, 137, 38, -3), Finger(8, 5, 4), FIST, FIST, FIST_LITTLE, yaw=-145, roll=-90),
    "Q": Pose(Thumb(29, 26, 137, 38, -3), Finger(8, 5, 4), FIST, FIST, FIST_LITTLE, pitch=140, yaw=-35, wrist=75),
    "H": Pose(Thumb(-1, 68, 153, 60, 15), UP, UP, FIST, FIST_LITTLE, yaw=-155, roll=-90),
    # Index up and middle finger forward, the thumb between them: upright (K), turned down (P).
    "K": Pose(
        Thumb(12, 26, 140, 24, -10),
        Finger(12, 8, 5, 6),
        Finger(58, 12, 7),
        Finger(88, 88, 58, -4),
        FIST_LITTLE,
        yaw=-15,
    ),
    "P": Pose(
        Thumb(12, 26, 140, 24, -10),
        Finger(12, 8, 5, 6),
        Finger(58, 12, 7),
        Finger(88, 88, 58, -4),
        FIST_LITTLE,
        pitch=95,
        yaw=-52,
        wrist=55,
    ),
    # Two or three fingers up: together (U), apart (V), crossed (R), three (W).
    "U": Pose(Thumb(-7, 66, 147, 58, 15), Finger(7, 8, 5, -1), Finger(4, 7, 5, 2), Finger(76, 94, 62, 1), FIST_LITTLE),
    "V": Pose(Thumb(-6, 68, 147, 67, 18), Finger(6, 6, 4, 17), Finger(5, 8, 5, -9), Finger(75, 95, 62, 2), FIST_LITTLE),
    "R": Pose(
        Thumb(-7, 60, 147, 58, 6),
        Finger(24, 6, 4, -18),
        Finger(8, 8, 7, 12),
        Finger(80, 86, 59, -2),
        Finger(74, 97, 61, 6),
        pitch=-8,
        yaw=8,
    ),
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
    "Z": Pose(
        Thumb(5, 34, 108, 25, 65),
        Finger(6, 2, 6, 7),
        Finger(95, 102, 70, 3),
        Finger(90, 102, 65, 1),
        Finger(82, 100, 64, 8),
        pitch=25,
        roll=-10,
    ),
    "L": Pose(Thumb(62, 8, 90, 0, -5), Finger(3, 5, 3, 2), FIST, FIST, FIST_LITTLE),
    "I": Pose(Thumb(25, 46, 96, 36, 51), FIST, FIST, FIST, Finger(4, 6, 4, -4)),
    "J": Pose(Thumb(25, 46, 96, 36, 51), FIST, FIST, FIST, Finger(4, 6, 4, -4), pitch=20, yaw=55, roll=-20),
    "Y": Pose(Thumb(58, 10, 90, 0, -5), FIST, FIST, FIST, Finger(4, 6, 4, -22)),
}


# Hands that are no letter: all fingers spread, at rest, three, love (I and L at once), horns.
GESTURES: dict[str, Pose] = {
    "five": Pose(Thumb(55, 12, 90, 5, 0), Finger(4, 6, 4, 9), UP, Finger(4, 6, 4, -9), Finger(4, 6, 4, -20)),
    "rest": Pose(
        Thumb(30, 35, 100, 20, 15),
        Finger(28, 32, 14),
        Finger(34, 38, 16),
        Finger(38, 42, 18),
        Finger(40, 44, 18, 3),
        yaw=60,
        roll=70,
    ),
    "three": Pose(Thumb(58, 12, 90, 0, -5), Finger(4, 6, 4, 9), Finger(4, 6, 4, -8), FIST, FIST_LITTLE),
    "love": Pose(Thumb(60, 8, 90, 0, -5), Finger(4, 6, 4, 4), FIST, FIST, Finger(4, 6, 4, -12)),
    "horns": Pose(Thumb(12, 46, 105, 25, 59), Finger(4, 6, 4, 4), FIST, FIST, Finger(4, 6, 4, -8)),
}


# Other ways to sign a letter, and how many people do: the hand hangs for M and N, so that the fingers point down; for P
# and G it stands, and the fingers are bent aside, those of P like a K's, those of G as if to pinch.
VARIANTS: dict[str, tuple[float, Pose]] = {
    "M": (0.4, replace(POSES["M"], pitch=POSES["M"].pitch + 55, wrist=40)),
    "N": (0.4, replace(POSES["N"], pitch=POSES["N"].pitch + 55, wrist=40)),
    "P": (0.4, replace(POSES["K"], index=Finger(38, 10, 6, 6), middle=Finger(72, 12, 7), yaw=-50, roll=35)),
    "G": (
        0.4,
        replace(POSES["G"], thumb=Thumb(18, 43, 130, 8, -2), index=Finger(58, 12, 6), yaw=-62, roll=32, wrist=20),
    ),
}


def draw_sign(letter: str, phase: float, rng: np.random.Generator) -> Pose:
    """Pose of a letter on its way (``moved``), or one of its ``VARIANTS``."""
    share, variant = VARIANTS.get(letter, (0.0, None))
    return variant if variant and rng.random() < share else moved(letter, phase)


def moved(letter: str, phase: float) -> Pose:
    """Pose of J or Z on its way, from 0 to 1; at a half it is that of ``POSES``. Other letters are held still.

    J begins as an I with the palm to the viewer; the little finger then draws the hook while the palm turns to the
    signer. Z is drawn by the index finger: across, down and back, across; the hand sways with the strokes.
    """
    pose = POSES[letter]
    if letter == "J":
        dip = math.sin(math.pi * phase)
        return replace(pose, pitch=20 * dip, yaw=110 * phase, roll=-40 * phase)
    if letter == "Z":
        stroke = 3 * phase
        sway = stroke if stroke < 1 else 2 - stroke if stroke < 2 else stroke - 2
        return replace(pose, pitch=15 + 20 * phase, roll=10 - 40 * sway)
    return pose


def draw_pose(pose: Pose, rng: np.random.Generator) -> Pose:
    """One person's way to make a sign: its pose with every joint a few degrees off.

    A finger's joints share most of their deviation: who curls loosely curls loosely throughout.
    """
    index, middle, ring, little = (_loosened(finger, rng) for finger in pose.fingers)
    thumb = Thumb(*(angle + 3 * _bounded(rng) for angle in pose.thumb))
    wrist = pose.wrist + 6 * _bounded(rng)
    return replace(pose, thumb=thumb, index=index, middle=middle, ring=ring, little=little, wrist=wrist)


def _loosened(finger: Finger, rng: np.random.Generator) -> Finger:
    loose = 4 * _bounded(rng)
    mcp, pip, dip = (angle + loose + 3 * _bounded(rng) for angle in (finger.mcp, finger.pip, finger.dip))
    return Finger(mcp, pip, dip, finger.spread + 1.5 * _bounded(rng)).limited()


def _bounded(rng: np.random.Generator) -> float:
    """Draw a standard normal deviate cut at two deviations: a letter must stay that letter."""
    return float(np.clip(rng.standard_normal(), -2, 2))
