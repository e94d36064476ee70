"""A data set of synthetic pictures in the layout of Lexset's "Synthetic ASL Alphabet".

``Train_Alphabet/<letter>/<uuid>.png`` and ``Test_Alphabet/<letter>/<uuid>.png``, with ``Blank`` beside the letters, and
``boxes.csv``, which says where the hands are.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin

from fingerspell.alphabet import LETTERS
from fingerspell.errors import RunError
from fingerspell.files import csv_text, write_bytes, write_text
from fingerspell.rendering.scene import hand_box, render_blank, render_letter
from fingerspell.streams import processors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PARTS = ("Train_Alphabet", "Test_Alphabet")
BLANK = "Blank"
BOXES = "boxes.csv"
LABELS = (*LETTERS, BLANK)  # a label's place seeds its pictures: append only

# Written into every PNG; raise it whenever a picture would come out different.
_VERSION = 1
# Below this many pictures a second process starts slower than it helps: about 1 s of work.
_WORTH_A_POOL = 50


@dataclass(frozen=True)
class _Item:
    """One picture of the data set, known by its place before it is drawn."""

    part: int
    label: int
    number: int

    def generator(self, seed: int) -> np.random.Generator:
        """Random numbers of this picture alone, so that a set can grow without changing."""
        return np.random.default_rng((seed, self.part, self.label, self.number))

    def path(self, out: Path, seed: int) -> Path:
        name = uuid.UUID(bytes=self.generator(seed).bytes(16), version=4)
        return out / PARTS[self.part] / LABELS[self.label] / f"{name}.png"


def render_dataset(
    out: Path,
    *,
    train_per_letter: int,
    test_per_letter: int,
    size: int = 512,
    seed: int = 0,
    blank: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Draw a data set; pictures that already exist are left as they are, so a second call resumes or extends it.

    Parameters
    ----------
    out
        Folder of the data set; made if missing.
    train_per_letter, test_per_letter
        Pictures of each label in either part.
    size
        Breadth and height in pixels; Lexset's pictures have 512.
    seed
        The same seed and size give the same files, byte for byte.
    blank
        Whether to add pictures without a hand, as many as of a letter.
    on_progress
        Called with the pictures there are and the pictures there will be.

    Returns
    -------
    Number of pictures written by this call.

    Raises
    ------
    RunError
        If ``out`` holds anything but such a data set of the same seed and size.
    """
    _check_folder(out, seed, size)
    items = [
        _Item(part, label, number)
        for part, count in enumerate((train_per_letter, test_per_letter))
        for label in range(len(LABELS) if blank else len(LETTERS))
        for number in range(count)
    ]
    missing = [item for item in items if not item.path(out, seed).exists()]
    done = len(items) - len(missing)
    for _ in _write_all(missing, partial(_write, out=out, seed=seed, size=size)):
        done += 1
        if on_progress is not None:
            on_progress(done, len(items))
    _write_boxes(items, out, seed)
    return len(missing)


def _write_boxes(items: list[_Item], out: Path, seed: int) -> None:
    """Write where the hands of these pictures are, with the rows that a larger call left."""
    table = out / BOXES
    rows = dict[str, list[str]]()
    if table.exists():
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(table.read_text("utf-8"))) if len(row) == 5}
    for item in items:
        rng = item.generator(seed)
        rng.bytes(16)  # spent on the name
        if (label := LABELS[item.label]) != BLANK:
            path = item.path(out, seed).relative_to(out).as_posix()
            rows[path] = [f"{value:.4f}" for value in hand_box(label, rng)]
    rows.pop("path", None)
    write_text(
        table, csv_text(["path", "left", "top", "right", "bottom"], ([path, *rows[path]] for path in sorted(rows)))
    )


def _write_all(items: list[_Item], write: Callable[[_Item], None]) -> Iterator[None]:
    """Write the pictures, on all processors where that pays."""
    if len(items) < _WORTH_A_POOL or processors() == 1:
        yield from map(write, items)
        return
    # Spawned, not forked: forking a process with threads (a network library, a progress bar) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processors(), len(items) // 8), mp_context=context)
    try:
        yield from pool.map(write, items, chunksize=8)
    finally:
        pool.shutdown(cancel_futures=True)


def _write(item: _Item, *, out: Path, seed: int, size: int) -> None:
    rng = item.generator(seed)
    rng.bytes(16)  # spent on the name
    label = LABELS[item.label]
    pixels = render_blank(rng, size) if label == BLANK else render_letter(label, rng, size)
    information = PngImagePlugin.PngInfo()
    information.add_text("Software", _stamp(seed))
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG", pnginfo=information)
    write_bytes(item.path(out, seed), data.getvalue())


def _stamp(seed: int) -> str:
    return f"fingerspell renderer {_VERSION}, seed {seed}"


def _check_folder(out: Path, seed: int, size: int) -> None:
    """Refuse a folder that holds anything but this data set, or a part of it."""
    remedy = "Give a new or empty folder, or the seed and size the folder was drawn with."
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; expected a folder to draw the data set into. {remedy}")
    for path in _entries(out):
        if path.name == BOXES and path.is_file():
            continue
        if path.name not in PARTS or not path.is_dir():
            raise RunError(f"{out} holds {path.name!r}; expected only the folders {' and '.join(PARTS)}. {remedy}")
        for folder in _entries(path):
            if folder.name not in LABELS or not folder.is_dir():
                raise RunError(f"{path} holds {folder.name!r}; expected only folders A to Z and {BLANK}. {remedy}")
            for picture in _entries(folder):
                found, expected = _origin(picture), f"{size}x{size}, {_stamp(seed)}"
                if found != expected:
                    raise RunError(f"{picture} is {found}; expected {expected}. {remedy}")


def _entries(folder: Path) -> list[Path]:
    """List what a folder holds, but for hidden files: half-written pictures of a killed run, or the system's own."""
    if not folder.exists():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _origin(picture: Path) -> str:
    """Read what a file says of itself: its size and the renderer's stamp."""
    try:
        with Image.open(picture, formats=["PNG"]) as image:
            software = image.info.get("Software", "no picture of this renderer")
            return f"{image.width}x{image.height}, {software}"
    except OSError:
        return "no PNG picture"
