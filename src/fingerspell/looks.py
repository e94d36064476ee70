"""What the pictures of a data set look like: light, contrast, sharpness, background. Measured, never judged here."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fingerspell import images
from fingerspell.cache import remember
from fingerspell.progress import silent
from fingerspell.streams import ordered_map

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fingerspell.archive import Archive
    from fingerspell.dataset import Picture
    from fingerspell.images import Pixels
    from fingerspell.progress import Progress

_VERSION = 1  # part of the key under which looks are remembered
_SIDE = 96  # pixels at which every picture is measured: sharpness depends on the size
_BORDER = 0.1  # of the side: hands are in the middle more than there
_SHADES = 4  # of each colour channel that count as different backgrounds


@dataclass(frozen=True)
class Looks:
    """Measures of N pictures, each (N,), float32.

    Attributes
    ----------
    brightness : array
        Mean of the grey values, 0 to 255.
    contrast : array
        Their standard deviation.
    sharpness : array
        Variance of the Laplacian over the variance of the grey values: what a blur takes away.
    background : array
        Colour of the border, as the number of one of 64 cells.
    """

    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    background: NDArray[np.float32]


def measure(
    archive: Archive, pictures: Sequence[Picture], *, memory: Path | None = None, on_progress: Progress = silent
) -> Looks:
    """Look at good pictures of an archive, in one pass; ``memory`` is a folder that remembers the measures."""
    remembered = memory / f"{archive.fingerprint}-looks-{_VERSION}.json" if memory else None
    if remembered and remembered.exists():
        with suppress(ValueError, TypeError):  # damaged from outside: look again
            rows = np.array(json.loads(remembered.read_text("utf-8")), np.float32)
            if rows.shape == (len(pictures), 4):
                return Looks(*rows.T)
    files = ((picture.id, archive.read(picture.id)) for picture in pictures)
    measured = []
    for row in ordered_map(lambda file: _measure(images.decode(file[1]).pixels), files, size=lambda file: len(file[1])):
        measured.append(row)
        on_progress("Looking at pictures", len(measured), len(pictures))
    if remembered:
        remember(remembered, json.dumps(measured).encode())
    return Looks(*np.array(measured, np.float32).reshape(-1, 4).T)


def effective_number(kinds: NDArray[np.float32]) -> float:
    """How many equally frequent kinds would be as varied: the exponential of the entropy (Hill, 1973)."""
    shares = np.unique(kinds, return_counts=True)[1] / len(kinds)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _measure(pixels: Pixels) -> list[float]:
    small = images.resize(pixels, _SIDE, "bilinear").astype(np.float32)
    grey = small @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    edge = round(_BORDER * _SIDE)
    border = np.concatenate(
        [small[:edge].reshape(-1, 3), small[:, :edge].reshape(-1, 3), small[:, -edge:].reshape(-1, 3)]
    )
    cells = np.minimum(np.median(border, axis=0) * _SHADES // 256, _SHADES - 1)
    background = float(cells @ np.array([1, _SHADES, _SHADES**2]))
    contrast = float(grey.std())
    sharpness = float(laplacian.var()) / max(contrast**2, 1.0)
    return [round(value, 4) for value in (float(grey.mean()), contrast, sharpness, background)]
