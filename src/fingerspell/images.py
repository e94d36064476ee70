"""From the bytes of a picture file to the RGB pixels that every stage sees.

Training, prediction and the exported model share these functions: a picture is decoded, resized and mirrored here and
nowhere else. What the network does to the pixels afterwards is part of the network (``backbones.Preprocessing``).
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import ExifTags, Image, ImageFilter, UnidentifiedImageError

from fingerspell.errors import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

View = Literal["original", "mirrored", "darker", "brighter", "coarse", "blurred"]
VIEWS: tuple[View, ...] = ("original", "mirrored")  # what training looks at
CONDITIONS: tuple[View, ...] = get_args(View)[1:]  # what a score is tried under: another hand, light, camera, focus
_DARKER, _BRIGHTER = 0.5, 1.5
_COARSE = 0.5  # of the side that the network sees
_BLUR = 0.015  # standard deviation, of the side

# 64 megapixels unpack to 192 MB; the largest common camera pictures have 50. More is a pixel bomb.
MAX_PIXELS = 64_000_000

_PHONES = (b"heic", b"heix", b"hevc", b"mif1", b"avif")  # first brand of what phones save pictures as
SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))

_HASH_SIDE = 16  # pixels that a difference hash needs of a picture, for its 9 x 8 cells

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as RGB pixels of shape (height, width, 3), and the name of the format it came in."""

    pixels: Pixels
    format: str


@dataclass(frozen=True, slots=True)
class Examined:
    """A whole picture's upright size, the name of the format it came in, and its difference hash.

    The hash is 64 bits in hex: whether each of 8 x 8 cells of the picture in grey is darker than its right neighbour
    (Krawetz, "Kind of Like That", 2013). Hashes of frames a moment apart differ in a few bits.
    """

    width: int
    height: int
    format: str
    dhash: str


def decode(data: bytes, side: int | None = None) -> Decoded:
    """Decode a picture file to 8-bit RGB, upright.

    EXIF rotation is applied, transparency is laid on white, 16 bits become 8, and of an animation the first frame
    counts.

    Parameters
    ----------
    data
        Content of the file.
    side
        Pixels of the longer side that are enough, if not all are needed: a JPEG is drawn at a half, a quarter or an
        eighth where that leaves as many, which takes a fraction of the time.

    Raises
    ------
    UnreadableError
        If the bytes are no picture, are cut or damaged, or unpack to more than ``MAX_PIXELS``.
    """
    with _opened(data) as image:
        if side is not None:
            width, height = (-(-length * side // max(image.size)) for length in image.size)
            image.draft(None, (width, height))
        image.load()
        return Decoded(np.asarray(_to_rgb(_upright(image))), image.format or "")


def examine(data: bytes) -> Examined:
    """Look at a picture that ``decode`` would read, for less: a JPEG is read whole but drawn at an eighth.

    Raises
    ------
    UnreadableError
        As ``decode``.
    """
    with _opened(data) as image:
        width, height = image.size
        image.draft(None, (_HASH_SIDE, _HASH_SIDE))  # as small as the format can draw at once; JPEG alone can
        image.load()
        pixels = _to_rgb(image)  # the last that can fail
        size = (height, width) if _turn(image) in _SIDEWAYS else (width, height)
        return Examined(*size, image.format or "", _dhash(pixels))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open a picture and check what its header says; whatever goes wrong inside is an ``UnreadableError``."""
    if not data:
        raise UnreadableError("empty file (0 bytes)")
    Image.init()  # once; without it only the commonest formats can be asked for
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image)
            _check_range(image)
            yield image
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        if data[4:8] == b"ftyp" and data[8:12] in _PHONES:
            raise UnreadableError("a HEIC or AVIF picture, which is not read; save it as JPEG") from error
        raise UnreadableError(f"not a picture in a known format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(f"too many pixels (at most {MAX_PIXELS:,} are read)") from error
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged bytes
        raise UnreadableError(f"damaged picture ({str(error) or type(error).__name__})") from error


def resize(pixels: Pixels, size: int, interpolation: Interpolation) -> Pixels:
    """Squeeze a picture to ``size`` x ``size`` pixels, as the reference study does: the whole hand stays in view."""
    return _resized(pixels, (size, size), interpolation)


def fitted(pixels: Pixels, size: int, interpolation: Interpolation) -> Pixels:
    """Picture that just fits into ``size`` x ``size`` pixels, in their middle, its edges repeated outwards."""
    height, width = pixels.shape[:2]
    across, down = (max(1, round(length * size / max(width, height))) for length in (width, height))
    return padded_square(_resized(pixels, (across, down), interpolation))


def _resized(pixels: Pixels, sides: tuple[int, int], interpolation: Interpolation) -> Pixels:
    """Picture of this width and height; the same where it has them."""
    if pixels.shape[1::-1] == sides:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(sides, Image.Resampling[interpolation.upper()]))


def padded_square(pixels: Pixels) -> Pixels:
    """Picture in the middle of the least square that holds it, its edges repeated outwards."""
    height, width = pixels.shape[:2]
    top, left = max(0, width - height) // 2, max(0, height - width) // 2
    around = ((top, max(0, width - height) - top), (left, max(0, height - width) - left), (0, 0))
    return np.pad(pixels, around, mode="edge") if height != width else pixels


def view_of(pixels: Pixels, view: View) -> Pixels:
    """Picture (height, width, 3), or network input, as it is, or the same hand under another condition.

    "mirrored" is the same letter signed by the other hand; "darker" and "brighter" have half and one and a half times
    the values; "coarse" has half the resolution; "blurred" is out of focus.
    """
    match view:
        case "original":
            return pixels
        case "mirrored":
            return pixels[:, ::-1]
        case "darker" | "brighter":
            factor = _DARKER if view == "darker" else _BRIGHTER
            return (pixels * factor).clip(0, 255).astype(np.uint8)
        case "coarse":
            image, bilinear = Image.fromarray(pixels), Image.Resampling.BILINEAR
            width, height = (max(1, round(side * _COARSE)) for side in image.size)
            return np.asarray(image.resize((width, height), bilinear).resize(image.size, bilinear))
        case "blurred":
            return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(max(pixels.shape) * _BLUR)))


def _dhash(image: Image.Image) -> str:
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR))
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableError(
            f"too many pixels ({image.width}x{image.height} = {image.width * image.height:,}, "
            f"at most {MAX_PIXELS:,} are read)"
        )


def _check_range(image: Image.Image) -> None:
    """Refuse pixels of which nobody says what is white. Mode I is 16 bits wide in PGM files and 32 in others."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise UnreadableError(f"{kind} pixels have no agreed range; save it with 8 bits a channel")


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Turn that the EXIF data ask for; ``ImageOps.exif_transpose`` would also rewrite them, and fail on damage."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - of many types on damaged bytes; the pixels are good
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel (_check_range): Pillow would clip instead of scale
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
