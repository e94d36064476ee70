"""One synthetic picture: everything that is drawn at random about it, the picture, and the truth about its hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fingerspell.alphabet import MOVING_LETTERS
from fingerspell.rendering.background import KINDS, draw_background, photo_background
from fingerspell.rendering.body import Body, arm_alone, flesh_out
from fingerspell.rendering.camera import ByteImage, Camera, draw_camera, photograph
from fingerspell.rendering.hand import (
    DIGITS,
    WRIST,
    Finger,
    FloatArray,
    Proportions,
    Skeleton,
    Thumb,
    draw_proportions,
    forward_kinematics,
)
from fingerspell.rendering.poses import GESTURES, POSES, Pose, draw_pose, draw_sign
from fingerspell.rendering.raster import FloatMap, Surface, rasterise
from fingerspell.rendering.shading import (
    MOST_LAMPS,
    Lighting,
    Looks,
    draw_lighting,
    draw_looks,
    palette,
    shade,
)
from fingerspell.rendering.view import Frame, View, draw_view, frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BLANK = "Blank"
SUPERSAMPLING = 2  # samples a side per pixel, against jagged edges
_BLEND = 2.5  # mm: softens joints, keeps them visible
# What a picture of no letter shows, and how often.
_NO_LETTER = {"nothing": 0.4, "arm": 0.15, "gesture": 0.45}
_WINDOW_MARGIN = 2  # pixels around a body: its blended surface is a little thicker than its cones


@dataclass(frozen=True)
class Scene:
    """Everything about one picture that is drawn at random, but for its pixels' noise, which ``seed`` gives.

    Attributes
    ----------
    shows
        Letter, gesture, ``arm`` or ``nothing``.
    phase
        Of J and Z, from 0 to 1, how far the hand has come on its way; of others 0.5.
    person
        Bone lengths and thicknesses.
    pose
        Joint angles.
    view, looks, lighting, camera
        Where the camera stands; skin and cloth; lamps; what the camera does.
    background
        Kind of ``background.KINDS``, or the name of a user's picture.
    seed
        Of the background's details, the skin's blotches and the sensor's noise.
    """

    shows: str
    phase: float
    person: Proportions
    pose: Pose
    view: View
    looks: Looks
    lighting: Lighting
    camera: Camera
    background: str
    seed: int

    @property
    def has_hand(self) -> bool:
        """Whether a hand is in the picture, of a letter or not."""
        return self.shows in POSES or self.shows in GESTURES


def draw_scene(label: str, rng: np.random.Generator, photos: Sequence[Path] = ()) -> Scene:
    """Scene of a letter, or of none (``BLANK``); before one of ``photos`` if there are any."""
    shows = label if label != BLANK else _draw_no_letter(rng)
    phase = rng.uniform() if shows in MOVING_LETTERS else 0.5
    sign = draw_sign(shows, phase, rng) if shows in POSES else GESTURES.get(shows, GESTURES["rest"])
    return Scene(
        shows,
        phase,
        person=draw_proportions(rng),
        pose=draw_pose(sign, rng),
        view=draw_view(rng),
        looks=draw_looks(rng),
        lighting=draw_lighting(rng),
        camera=draw_camera(rng, moving=shows in MOVING_LETTERS),
        background=photos[int(rng.integers(len(photos)))].name if photos else KINDS[int(rng.integers(len(KINDS)))],
        seed=int(rng.integers(2**31)),
    )


def _draw_no_letter(rng: np.random.Generator) -> str:
    kind = str(rng.choice(list(_NO_LETTER), p=list(_NO_LETTER.values())))
    return str(rng.choice(list(GESTURES))) if kind == "gesture" else kind


def render(scene: Scene, size: int, photos: Sequence[Path] = ()) -> ByteImage:
    """Picture of a scene; the same one always.

    Parameters
    ----------
    scene
        What to draw.
    size
        Breadth and height in pixels.
    photos
        Those that the scene was drawn with.

    Returns
    -------
    Shape (size, size, 3), RGB.
    """
    rng = np.random.default_rng(scene.seed)
    chosen = {path.name: path for path in photos}.get(scene.background)
    behind = photo_background(chosen, rng, size) if chosen else draw_background(scene.background, rng, size)
    hand, coverage = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.float32)
    if scene.shows != "nothing":
        _draw_body(scene, rng, hand, coverage)
    return photograph(hand, coverage, behind, scene.camera, rng)


def skeleton(scene: Scene) -> Skeleton:
    """Bones of the scene's hand in mm, turned towards the camera, the wrist at the origin."""
    pose = scene.pose
    bones = forward_kinematics(pose.thumb, pose.fingers, scene.person, wrist=pose.wrist)
    return bones.transformed(scene.view.turn @ pose.orientation)


@dataclass(frozen=True)
class Truth:
    """What is known of the hand in a picture.

    Attributes
    ----------
    box
        Shape (4,): left, top, right, bottom in shares of the picture, without the forearm.
    seen
        Shape (21, 3): joints, x and y in shares of the picture's sides, y down; z in the same scale, away from the
        viewer, 0 at the wrist.
    joints
        Shape (21, 3): joints in mm from the wrist; x right, y down, z away from the viewer.
    """

    box: FloatArray
    seen: FloatArray
    joints: FloatArray


def truth(scene: Scene) -> Truth | None:
    """Where the hand of a scene is; None where there is none."""
    if not scene.has_hand:
        return None
    joints = skeleton(scene).joints
    framed = frame(joints, scene.view)
    away = np.array((1.0, 1.0, -1.0))
    return Truth(framed.box(joints), framed.seen(joints) * away, joints * (1.0, -1.0, -1.0))


def parameters(scene: Scene) -> dict[str, object]:
    """Everything that was drawn, by name, in the same order for every scene; empty are only absent lamps and phases.

    Of what is not seen, as the hand of a mere background, it is told all the same.
    """
    lamps = [asdict(lamp) for lamp in scene.lighting.lamps]
    lamps += [dict.fromkeys(lamps[0], "")] * (MOST_LAMPS - len(lamps))
    pose, person = scene.pose, scene.person
    return {
        "shows": scene.shows,
        "phase": scene.phase if scene.shows in MOVING_LETTERS else "",
        "left_hand": scene.view.left,
        **{name: value for name, value in asdict(scene.view).items() if name != "left"},
        **{f"thumb_{name}": angle for name, angle in zip(Thumb._fields, pose.thumb, strict=True)},
        **{
            f"{digit}_{name}": angle
            for digit, finger in zip(DIGITS[1:], pose.fingers, strict=True)
            for name, angle in zip(Finger._fields, finger, strict=True)
        },
        **{f"sign_{name}": getattr(pose, name) for name in ("pitch", "yaw", "roll", "wrist")},
        **{f"metacarpal_{digit}": mm for digit, mm in zip(DIGITS[1:], person.metacarpals.tolist(), strict=True)},
        **{
            f"length_{d}_{bone}": mm
            for d, row in zip(DIGITS, person.bones.tolist(), strict=True)
            for bone, mm in enumerate(row)
        },
        **{f"radius_{d}": row[0] for d, row in zip(DIGITS, person.radii.tolist(), strict=True)},
        "palm_breadth": person.breadth,
        **asdict(scene.looks),
        "lamps": len(scene.lighting.lamps),
        **{f"lamp{number}_{name}": value for number, lamp in enumerate(lamps, 1) for name, value in lamp.items()},
        "room": scene.lighting.room,
        **asdict(scene.camera),
        "background": scene.background,
        "pixel_seed": scene.seed,
    }


def render_letter(letter: str, rng: np.random.Generator, size: int) -> ByteImage:
    """Synthetic picture (size, size, 3) of a letter; ``rng`` draws person, view, light, background and camera."""
    return render(draw_scene(letter, rng), size)


def render_blank(rng: np.random.Generator, size: int) -> ByteImage:
    """Synthetic picture (size, size, 3) of no letter: a background, an arm, or a hand that makes another sign."""
    return render(draw_scene(BLANK, rng), size)


def _draw_body(scene: Scene, rng: np.random.Generator, hand: FloatMap, coverage: FloatMap) -> None:
    """Draw hand or arm into ``hand`` (size, size, 3) and ``coverage`` (size, size)."""
    size = len(hand)
    body, framed = _posed(scene)
    window, surface = _surface(body, framed, size)
    colour = shade(surface, palette(scene.looks), scene.lighting, SUPERSAMPLING * size * framed.scale, rng)
    coverage[window] = _shrunk(surface.mask.astype(np.float32))
    hand[window] = np.stack([_shrunk(channel) for channel in colour], axis=-1)


def _posed(scene: Scene) -> tuple[Body, Frame]:
    """Flesh in mm, and the picture's place around it."""
    bones = skeleton(scene)
    if scene.shows == "arm":
        return arm_alone(bones, scene.person, sleeve=scene.looks.sleeve), frame(bones.joints[[WRIST]], scene.view)
    return flesh_out(bones, scene.person, sleeve=scene.looks.sleeve), frame(bones.joints, scene.view)


def _surface(body: Body, framed: Frame, size: int) -> tuple[tuple[slice, slice], Surface]:
    """Window of the picture that the body is in, and its surface there, ``SUPERSAMPLING`` times as fine."""
    seen = framed.project(body, SUPERSAMPLING * size)
    low = (seen.ends[..., :2] - seen.radii[..., None]).min((0, 1)) / SUPERSAMPLING - _WINDOW_MARGIN
    high = (seen.ends[..., :2] + seen.radii[..., None]).max((0, 1)) / SUPERSAMPLING + _WINDOW_MARGIN
    left, top = np.floor(low).clip(0, size - 1).astype(int).tolist()
    right, bottom = np.ceil(high).clip(1, size).astype(int).tolist()
    seen.ends[..., :2] -= SUPERSAMPLING * np.array((left, top))
    shape = (SUPERSAMPLING * (bottom - top), SUPERSAMPLING * (right - left))
    surface = rasterise(seen, shape, _BLEND * SUPERSAMPLING * size * framed.scale)
    return (slice(top, bottom), slice(left, right)), surface


def _shrunk(samples: FloatMap) -> FloatMap:
    """Mean of each block of samples."""
    return np.asarray(Image.fromarray(samples).reduce(SUPERSAMPLING))
