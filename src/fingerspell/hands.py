"""Where the hand is: MediaPipe's 21 points of a hand (Zhang et al., "MediaPipe Hands", 2020), and the crop around it.

Needs mediapipe and its model file, and only when a hand is looked for; no torch, for a trained model looks too.

Many pictures were squeezed before they came here (a webcam's frame made square, a tall hand cut out and made square),
nobody knows which, and MediaPipe errs on such hands. So it also looks at every picture made wider, made taller, and, if
it saw a hand by then, made more than twice as tall. What reads the points hears all looks (``heads.py``), the last one
less than the others; a network beside the points sees the picture in each shape too. A picture gives one row of ``ROW``
float32 values, always: ``LOOKS`` looks of ``LOOK`` values. The first is at the picture as it is; where that one misses
the hand, it is told what the next one saw. Of each look:

[0] found     1, or 0 where every try missed the hand; all other values but the shape are then 0
[1] right     probability that it is a right hand, as MediaPipe says it
[2] sure      MediaPipe's confidence in that side
[3] step      of the ladder of tries that found it (``_LADDER``); ``DRAWN`` for the truth about a rendered hand
[4] shape     width of the picture over its height, as this look sees it
[5:68]        21 points of the picture: x and y in shares of its width and height, z (depth) in the scale of x
[68:131]      21 points of the world: metres from the hand's centre
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import weakref
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fingerspell import cache, images
from fingerspell.errors import BackboneError, MissingDependencyError
from fingerspell.files import file_digest
from fingerspell.streams import error_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fingerspell.images import Interpolation, Pixels, View

    Row = NDArray[np.float32]

NAME = "hand-landmarks"
FOUND, RIGHT, SURE, STEP, SHAPE = range(5)
POINTS = 21  # in MediaPipe's order: the wrist, then four of each finger from the thumb to the little one
TIPS = (4, 8, 12, 16, 20)
PICTURE, WORLD = slice(5, 5 + 3 * POINTS), slice(5 + 3 * POINTS, 5 + 6 * POINTS)
LOOK = 5 + 6 * POINTS
STRETCHES = (1.0, 1.5, 1 / 1.5, 1 / 2.25)  # of the looks: how much wider the picture is made
VOICES = (1.0, 1.0, 1.0, 0.25)  # of the looks, before anybody looks: few hands are pressed to half of their height
LOOKS = len(STRETCHES)
ROW = LOOKS * LOOK

DRAWN = -1  # the step of a row that no detector found: the picture was drawn with the hand there

READER = "reader"  # our own network (reader.py), which needs no MediaPipe once it is taught


class Reading:
    """Places in the vector (94,) of what a reader says of a picture.

    ``LETTERS`` log-probabilities of the 26 letters; ``HAND`` 21 points, x and y in shares of the picture and z in the
    same scale; ``PRESENT`` and ``RIGHT`` probabilities; ``BOX`` middle x, y and side of the last view.
    """

    LETTERS = slice(0, 26)
    HAND = slice(26, 26 + 3 * POINTS)
    PRESENT, RIGHT = HAND.stop, HAND.stop + 1
    BOX = slice(RIGHT + 1, RIGHT + 4)


MODEL_URL = (
    "https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/hand_landmarker.task"
)
MODEL_SHA256 = "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1"
_TIMEOUT_S = 60.0

# Part of what rows and crops are remembered under: raise it whenever one would come out different.
VERSION = 3

_MARGIN = 0.25  # of the box of the points, on each side: they lie inside the hand, not at its edge

# MediaPipe's last word of itself, on how its memory lies, comes with one of the first hands, nobody knows which.
_QUIET_HANDS = 50


@dataclass(frozen=True)
class _Try:
    """One way to look for a hand.

    Attributes
    ----------
    margin : float
        Around the picture, in shares of its side.
    side : int
        That the picture is enlarged or shrunk to; 0: left as it is.
    confidence : float
        Least that the detector must have.
    """

    margin: float = 0.0
    side: int = 0
    confidence: float = 0.5


# The first try that finds a hand wins. The detector was made for hands in a wider picture, so that one cut out
# closely needs a margin, and a small one needs more pixels.
_LADDER = (
    _Try(),
    _Try(side=256),
    _Try(margin=0.3, side=320),
    _Try(margin=0.3, side=320, confidence=0.1),
    _Try(side=256, confidence=0.1),
)
DOUBTFUL = 3  # the first step at which the detector is not sure to see a hand
_STRETCHED = _LADDER[DOUBTFUL : DOUBTFUL + 1]  # of a stretched picture: the one try that finds most
_ENOUGH = 640  # pixels of its longer side: that try looks at half as many
_MOST = 8_000  # of a picture that is not stretched: made a square, a long strip would fill the memory ...
_STRIP, _MOST_OF_A_STRIP = 4, 2_000  # ... and one so many times as long as wide has no more of a hand in it
# (No known set has either, so these two came without another VERSION.)


class Detector:
    """MediaPipe's detector with its model file; may be used by several threads at once.

    Attributes
    ----------
    file : Path
    sha256 : str
        Digest of the networks in the model file, however they are packed.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sha256 = bundle_digest(file)
        self._idle: dict[float, list[Any]] = {step.confidence: [] for step in _LADDER}
        self._still_noisy = _QUIET_HANDS
        weakref.finalize(self, _close, self._idle)  # at the latest before Python takes MediaPipe's modules apart

    @property
    def identity(self) -> dict[str, object]:
        """Everything that rows depend on besides the picture."""
        return {"hands": self.sha256, "mediapipe": _mediapipe_version(), "ladder": VERSION}

    def look(self, pixels: Pixels) -> Row:
        """Row of an RGB picture (height, width, 3) of any size.

        Raises
        ------
        MissingDependencyError
            If mediapipe is not installed.
        """
        looks: list[Row] = []
        for stretch, voice in zip(STRETCHES, VOICES, strict=True):
            worth_it = voice == 1 or any(look[FOUND] for look in looks)
            tries = _LADDER if stretch == 1 else _STRETCHED
            looks.append(self._look(pixels, stretch, tries if worth_it else ()))
        seen = next((look for look in looks if look[FOUND]), looks[0]).copy()
        seen[SHAPE] = looks[0][SHAPE]
        return np.concatenate([seen, *looks[1:]])

    def _look(self, pixels: Pixels, stretch: float, tries: tuple[_Try, ...]) -> Row:
        """One look (131,), at the picture made so much wider."""
        pixels = _stretched(pixels, stretch)
        height, width = pixels.shape[:2]
        look = np.zeros(LOOK, np.float32)
        look[SHAPE] = width / height
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        square = images.padded_square(pixels)  # of others MediaPipe is wrong, and says so in its log
        for step in tries:
            found = self._try(square, step)
            if found:
                points, world, right, sure = found
                points[:, :2] = (points[:, :2] * side - (left, top)) / (width, height)
                points[:, 2] *= side / width
                look[[FOUND, RIGHT, SURE, STEP]] = 1, right, sure, _LADDER.index(step)
                look[PICTURE], look[WORLD] = points.ravel(), world.ravel()
                break
        return look

    def _try(self, square: Pixels, step: _Try) -> tuple[Row, Row, float, float] | None:
        """Points (21, 3) in shares of the square, points of the world (21, 3), probability of right, confidence."""
        margin = round(step.margin * len(square))
        pixels = _padded(square, margin, margin, margin, margin)
        if step.side:
            pixels = np.asarray(Image.fromarray(pixels).resize((step.side, step.side), Image.Resampling.BICUBIC))
        found = self._detect(pixels, step.confidence)
        if not found.hand_landmarks:
            return None
        points, world = (
            np.array([[point.x, point.y, point.z] for point in some[0]], np.float32)
            for some in (found.hand_landmarks, found.hand_world_landmarks)
        )
        side = found.handedness[0][0]
        right = side.score if side.category_name == "Right" else 1 - side.score
        whole = (len(square) + 2 * margin) / len(square)
        points *= whole
        points[:, :2] -= margin / len(square)
        return points, world, right, side.score

    def _detect(self, pixels: Pixels, confidence: float) -> Any:
        """What MediaPipe says; each of its instances serves one thread at a time."""
        mediapipe = _mediapipe()
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
        idle = self._idle[confidence]
        try:
            instance = idle.pop()
        except IndexError:
            instance = self._instance(confidence)
        try:
            with _quiet() if self._still_noisy > 0 else contextlib.nullcontext():
                found = instance.detect(image)
        finally:
            idle.append(instance)
        self._still_noisy -= bool(found.hand_landmarks)
        return found

    def _instance(self, confidence: float) -> Any:
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.HandLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=self.file.read_bytes()),
            num_hands=1,
            min_hand_detection_confidence=confidence,
            min_hand_presence_confidence=confidence,
        )
        try:
            with _quiet():
                return vision.HandLandmarker.create_from_options(options)
        except (RuntimeError, ValueError, OSError) as error:
            said = shorten(str(error), 200, placeholder=" ...")  # of a zip of pictures it lists them all
            raise BackboneError(
                f"{self.file}: not a model file that MediaPipe's hand landmarker reads ({said}). "
                f"Expected hand_landmarker.task from {MODEL_URL}; check --hand-model."
            ) from error


def open_detector(file: Path | None = None) -> Detector:
    """Detector with a model file; without one with Google's, fetched into the cache the first time.

    Raises
    ------
    BackboneError
        If the file is not there, or it cannot be fetched, or what was fetched is another.
    MissingDependencyError
        If mediapipe is not installed.
    """
    _mediapipe_version()  # before anything is fetched
    if file is not None and not file.is_file():
        raise BackboneError(f"{file}: there is no such model file of the hand landmarker. Check --hand-model.")
    return Detector(file or _fetched())


def crop(pixels: Pixels, look: Row) -> Pixels:
    """Square around the hand, mirrored to a right hand's; the whole picture where no hand was found.

    Parameters
    ----------
    pixels
        RGB picture (height, width, 3), in the shape of the look.
    look
        What the detector said of it, (``LOOK``,); of a whole row the first look.
    """
    if not look[FOUND]:
        return pixels
    height, width = pixels.shape[:2]
    points = look[PICTURE].reshape(POINTS, 3)[:, :2] * (width, height)
    low, high = points.min(axis=0), points.max(axis=0)
    side = max(1, round(float((high - low).max()) * (1 + 2 * _MARGIN)))
    left, top = ((low + high - side) / 2).round().astype(int).tolist()
    beyond = [max(0, margin) for margin in (-top, top + side - height, -left, left + side - width)]
    square = _padded(pixels, *beyond)[top + beyond[0] :, left + beyond[2] :][:side, :side]
    return square if look[RIGHT] >= 0.5 else square[:, ::-1]


def _stretched(pixels: Pixels, stretch: float) -> Pixels:
    """Picture made wider, or taller where ``stretch`` is less than 1; a large one no larger than is looked at."""
    height, width = pixels.shape[:2]
    across, down = width * max(1, stretch), height * max(1, 1 / stretch)
    strip = max(across, down) > _STRIP * min(across, down)
    most = _ENOUGH if stretch != 1 else _MOST_OF_A_STRIP if strip else _MOST
    fits = min(1, most / max(across, down))
    sides = max(1, round(across * fits)), max(1, round(down * fits))
    if sides == (width, height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(sides, Image.Resampling.BICUBIC))


def network_input(
    pixels: Pixels,
    size: int,
    interpolation: Interpolation,
    view: View = "original",
    row: Row | None = None,
    *,
    padded: bool = False,
    looks: int = 1,
) -> Pixels:
    """Network input (size, size, 3) from a decoded picture (height, width, 3): the one place where it is made.

    With a row, that of this view of the picture, the network sees the hand alone. The view is then made before the
    crop, as a camera would: who mirrors a picture still sees a right hand. What is no square is squeezed into one, or
    fitted into one and ``padded``. With all ``LOOKS`` the input is (looks, size, size, 3), the picture in the shape of
    each.
    """
    resized = images.fitted if padded else images.resize

    def seen(look: int) -> Pixels:
        if row is None:
            shown = _stretched(pixels, STRETCHES[look]) if look else pixels
            return images.view_of(resized(shown, size, interpolation), view)
        shown = _stretched(images.view_of(pixels, view), STRETCHES[look])
        return resized(crop(shown, row[look * LOOK :]), size, interpolation)

    return seen(0) if looks == 1 else np.stack([seen(look) for look in range(looks)])


def _padded(pixels: Pixels, top: int, bottom: int, left: int, right: int) -> Pixels:
    """Picture with its edges repeated so many pixels outwards."""
    if not (top or bottom or left or right):
        return pixels
    return np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")


def bundle_digest(file: Path) -> str:
    """Digest of what a model file holds: a bundle that was packed again is the same model."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(file) as bundle:
            for name in sorted(bundle.namelist()):
                digest.update(f"{name} {hashlib.sha256(bundle.read(name)).hexdigest()}\n".encode())
    except Exception:  # noqa: BLE001 - damage has no common class, and MediaPipe will say so as soon as it is asked
        return file_digest(file)
    return digest.hexdigest()


def _fetched() -> Path:
    """Google's model file in the cache."""
    path = cache.models_folder() / "hand_landmarker.task"
    if path.exists() and file_digest(path) == MODEL_SHA256:
        return path
    try:
        data = _download(MODEL_URL)
    except (OSError, HTTPException) as error:
        raise BackboneError(
            f"{MODEL_URL}: MediaPipe's hand model cannot be fetched ({error}). "
            "Where there is no network, fetch it elsewhere and give it with --hand-model FILE."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != MODEL_SHA256:
        raise BackboneError(
            f"{MODEL_URL}: found a file with sha256 {found[:16]}, expected {MODEL_SHA256[:16]}. Nothing was kept; "
            "try again, or give a file that you trust with --hand-model FILE."
        )
    cache.remember(path, data)
    return path


def _download(url: str) -> bytes:
    from urllib.request import urlopen

    with urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the address above
        data: bytes = answer.read()
        return data


def _mediapipe() -> Any:
    try:
        import mediapipe
    except ModuleNotFoundError as error:
        raise _not_installed() from error
    return mediapipe


def _mediapipe_version() -> str:
    """Major version of mediapipe, without its import, which takes seconds."""
    try:
        return version("mediapipe").split(".", maxsplit=1)[0]
    except PackageNotFoundError as error:
        raise _not_installed() from error


def _not_installed() -> MissingDependencyError:
    return MissingDependencyError(
        "the package 'mediapipe' is not installed. It finds the hand in a picture, which this backbone, crop or model "
        "asks for: pip install 'fingerspell[hands]', or in a checkout pip install '.[hands]'"
    )


def _close(idle: dict[float, list[Any]]) -> None:
    with _quiet():
        for instance in [instance for instances in idle.values() for instance in instances]:
            instance.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Close the error stream to C++: MediaPipe tells of itself there, at its start, its first hand and its end."""
    sys.stderr.flush()  # before the lock: a progress bar has one of its own
    with error_stream:
        kept = os.dup(2)
        try:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
