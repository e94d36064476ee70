"""Pictures and archives made by hand, for every test that needs some."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fingerspell.alphabet import LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Content = str | tuple[int, ...] | int | NDArray[np.generic]  # a colour, or the pixels themselves


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    """Bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(content: Content = "red", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    """JPEG of one colour and ``size`` (width, height), or of pixels."""
    return encode(_image(content, size, "RGB"), "JPEG", **options)


def png(content: Content = "red", size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: Any) -> bytes:
    """PNG of one colour and ``size`` (width, height), or of pixels."""
    return encode(_image(content, size, mode), "PNG", **options)


def _image(content: Content, size: tuple[int, int], mode: str) -> Image.Image:
    return Image.fromarray(content) if isinstance(content, np.ndarray) else Image.new(mode, size, content)


def numbered(number: int) -> bytes:
    """Small PNG whose bytes no other number has."""
    return png((number // 65536 % 256, number // 256 % 256, number % 256))


def png_claiming(width: int, height: int) -> bytes:
    """PNG of a few bytes whose header claims any size: a pixel bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def alphabet(per_letter: int = 3, *, folder: str = "", letters: Iterable[str] = LETTERS) -> dict[str, bytes]:
    """Good pictures ``A/A1.png``, ``A/A2.png``, ... of each letter, all different, below ``folder`` ("some/path/")."""
    names = [f"{folder}{x}/{x}{i}.png" for x in letters for i in range(1, per_letter + 1)]
    return {name: numbered(number) for number, name in enumerate(names)}


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Zip file with these members, in this order."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], compression: str = "") -> Path:
    """Tar file with these members, in this order; ``compression`` "" or "gz", "bz2", "xz"."""
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """Folder with these files."""
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path
