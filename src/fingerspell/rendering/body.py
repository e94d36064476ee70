"""The flesh of a hand: rounded cones around the bones of a skeleton."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fingerspell.rendering.hand import (
    DIGITS,
    INDEX_MCP,
    LITTLE_MCP,
    THUMB_CMC,
    WRIST,
    FloatArray,
    Proportions,
    Skeleton,
    mean_proportions,
)

# Parts that a viewer tells apart; within one, cones blend into each other without a crease. Arm, palm and the ball of
# the thumb are one.
PALM, SLEEVE, FIRST_DIGIT = 0, 1, 2
# mm: an arm leaves the picture, however it is turned, so it neither reaches for the camera nor far away from it.
_ACROSS, _AWAY, _TO_VIEWER = 800.0, -200.0, 150.0
_CUFF = 45.0  # mm from the wrist to where a sleeve begins
_ROOT = 0.3  # of a finger's first bone, from the knuckle, that the palm's skin covers too


@dataclass(frozen=True)
class Body:
    """Rounded cones: each the space swept by a ball whose centre and radius run from one end to the other.

    Attributes
    ----------
    ends
        Shape (n, 2, 3): centres of the end balls in mm.
    radii
        Shape (n, 2): radii of the end balls in mm.
    dorsal
        Shape (n, 3): unit vector out of the back of each cone.
    part
        Shape (n,): the palm, the sleeve, or a digit counted from ``FIRST_DIGIT``.
    nail
        Shape (n,): whether the cone ends in a fingernail.
    jointed
        Shape (n,): whether the cone begins at a joint whose skin folds.
    """

    ends: FloatArray
    radii: FloatArray
    dorsal: FloatArray
    part: np.ndarray[tuple[int], np.dtype[np.int64]]
    nail: np.ndarray[tuple[int], np.dtype[np.bool_]]
    jointed: np.ndarray[tuple[int], np.dtype[np.bool_]]


class _Builder:
    """Collects cones one by one."""

    def __init__(self) -> None:
        self.rows: list[tuple[FloatArray, tuple[float, float], FloatArray, int, bool, bool]] = []

    def add(
        self,
        ends: tuple[FloatArray, FloatArray],
        radii: tuple[float, float],
        dorsal: FloatArray,
        part: int,
        *,
        nail: bool = False,
        jointed: bool = False,
    ) -> None:
        self.rows.append((np.stack(ends), radii, dorsal, part, nail, jointed))

    def build(self) -> Body:
        ends, radii, dorsal, part, nail, jointed = zip(*self.rows, strict=True)
        return Body(
            np.stack(ends), np.array(radii), np.stack(dorsal), np.array(part), np.array(nail), np.array(jointed)
        )


def flesh_out(skeleton: Skeleton, proportions: Proportions, *, sleeve: bool = False) -> Body:
    """Put rounded cones around the bones of a posed hand, with a bare or a covered arm."""
    builder = _Builder()
    _add_forearm(builder, skeleton, proportions, sleeve=sleeve)
    _add_palm(builder, skeleton, proportions)
    for digit in range(len(DIGITS)):
        base = THUMB_CMC + 4 * digit
        radii = proportions.radii[digit]
        for bone in range(3):
            ends = (skeleton.joints[base + bone], skeleton.joints[base + bone + 1])
            dorsal = skeleton.dorsal[base + bone + 1]
            inside_palm = digit == 0 and bone == 0  # the thumb's metacarpal
            part = PALM if inside_palm else FIRST_DIGIT + digit
            builder.add(ends, (radii[bone], radii[bone + 1]), dorsal, part, nail=bone == 2, jointed=bone > 0)
            if bone == 0 and not inside_palm:  # the palm's skin runs into the finger's without a seam
                root = _between(*ends, _ROOT)
                radius = radii[0] + _ROOT * (radii[1] - radii[0])
                builder.add((ends[0], root), (radii[0], radius), dorsal, PALM)
    return builder.build()


def arm_alone(skeleton: Skeleton, proportions: Proportions, *, sleeve: bool = False) -> Body:
    """Forearm that leaves the picture at both ends, of an arm whose hand is outside."""
    builder = _Builder()
    _add_forearm(builder, skeleton, proportions, sleeve=sleeve, start=-_elbow(skeleton.forearm) * (1, 1, 0))
    return builder.build()


def _elbow(direction: FloatArray) -> FloatArray:
    """Where an arm in this direction (3,) ends, in mm from the wrist: out of the picture."""
    end = direction * _ACROSS / max(float(np.hypot(direction[0], direction[1])), 1e-3)
    return np.array((end[0], end[1], min(max(end[2], _AWAY), _TO_VIEWER)))


def _add_forearm(
    builder: _Builder,
    skeleton: Skeleton,
    proportions: Proportions,
    *,
    sleeve: bool,
    start: FloatArray | None = None,
) -> None:
    """From the wrist, or from ``start``: about 58 mm broad and 36 mm thick, wider towards the elbow."""
    thick = _thickness(proportions)
    wrist = skeleton.joints[WRIST] if start is None else start
    elbow = _elbow(skeleton.forearm)
    across = _unit(skeleton.joints[INDEX_MCP] - skeleton.joints[LITTLE_MCP])
    for side in (-1, 0, 1):
        ends = (wrist + side * 11 * across, elbow + side * 17 * across)
        builder.add(ends, (17 * thick, 34 * thick), skeleton.dorsal[WRIST], PALM)
        if sleeve:
            cuff = _between(*ends, _CUFF / float(np.linalg.norm(ends[1] - ends[0])))
            builder.add((cuff, ends[1]), (23 * thick, 41 * thick), skeleton.dorsal[WRIST], SLEEVE)


def _add_palm(builder: _Builder, skeleton: Skeleton, proportions: Proportions) -> None:
    """Metacarpals, the two pads at the palm's sides, and the web between thumb and index finger."""
    joints, dorsal = skeleton.joints, skeleton.dorsal[WRIST]
    thick = _thickness(proportions)
    wrist = joints[WRIST]
    across = _unit(joints[INDEX_MCP] - joints[LITTLE_MCP])
    for digit in range(1, len(DIGITS)):
        knuckle = joints[THUMB_CMC + 4 * digit]
        foot = wrist + (16 - 6.5 * digit) * across
        builder.add((foot, knuckle), (15 * thick, proportions.radii[digit, 0]), dorsal, PALM)

    inward = -dorsal
    index, little = joints[INDEX_MCP], joints[LITTLE_MCP]
    thumb_foot, thumb_knuckle = joints[THUMB_CMC], joints[THUMB_CMC + 1]
    builder.add(
        (thumb_foot + 2 * inward, _between(thumb_foot, thumb_knuckle, 0.75)), (16 * thick, 13.5 * thick), dorsal, PALM
    )
    web = (_between(thumb_foot, thumb_knuckle, 0.6), _between(wrist, index, 0.7))
    builder.add(web, (9 * thick, 9 * thick), dorsal, PALM)
    heel = (_between(wrist, little, 0.25) + 5 * inward, _between(wrist, little, 0.75) + 3 * inward)
    builder.add(heel, (14 * thick, 11.5 * thick), dorsal, PALM)


def _thickness(proportions: Proportions) -> float:
    """Of a person's hand, against the mean one's."""
    return float(proportions.radii[2, 0] / mean_proportions().radii[2, 0])


def _between(start: FloatArray, end: FloatArray, share: float) -> FloatArray:
    return start + share * (end - start)


def _unit(vector: FloatArray) -> FloatArray:
    return vector / np.linalg.norm(vector)
