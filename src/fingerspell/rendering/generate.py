"""A data set of synthetic pictures in the layout of Lexset's "Synthetic ASL Alphabet", as a folder or a zip.

``Train_Alphabet/<letter>/<uuid>.png`` and ``Test_Alphabet/<letter>/<uuid>.png``, with ``Blank`` beside the letters;
``hands.csv``, the truth about every picture. A contact sheet, one picture of each label, lies beside it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import multiprocessing
import shutil
import uuid
import zipfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from fingerspell import images
from fingerspell.alphabet import LETTERS
from fingerspell.errors import FingerspellError, RunError
from fingerspell.files import check_writable, csv_text, write_bytes, write_file, write_text
from fingerspell.progress import silent
from fingerspell.rendering.scene import BLANK, draw_scene, parameters, render, truth
from fingerspell.streams import processors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fingerspell.progress import Progress
    from fingerspell.rendering.scene import Scene

PARTS = ("Train_Alphabet", "Test_Alphabet")
TABLE = "hands.csv"
LABELS = (*LETTERS, BLANK)  # a label's place seeds its pictures: append only

# Written into every PNG; raise the version whenever a picture would come out different.
_RENDERER, _VERSION = "fingerspell renderer", 4
# Below this many pictures a second process starts slower than it helps: about 1 s of work.
_WORTH_A_POOL = 50
_SHEET_COLUMNS, _SHEET_SIDE, _CAPTION = 9, 160, 22  # pictures a row; pixels
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same pictures make the same archive


@dataclass(frozen=True)
class _Set:
    """What a data set is drawn with: where to, how large, of which seed, before which of a user's pictures."""

    out: Path
    size: int
    seed: int
    photos: tuple[Path, ...]
    stamp: str  # text in every picture: the same stamp and place give the same bytes


@dataclass(frozen=True)
class _Item:
    """One picture of the data set, known by its place before it is drawn."""

    part: int
    label: int
    number: int

    def path(self, seed: int) -> Path:
        """Where it lies in the data set."""
        name = uuid.UUID(bytes=self._generator(seed).bytes(16), version=4)
        return Path(PARTS[self.part]) / LABELS[self.label] / f"{name}.png"

    def scene(self, seed: int, photos: tuple[Path, ...]) -> Scene:
        rng = self._generator(seed)
        rng.bytes(16)  # spent on the name
        return draw_scene(LABELS[self.label], rng, photos)

    def _generator(self, seed: int) -> np.random.Generator:
        """Random numbers of this picture alone, so that a set can grow without changing."""
        return np.random.default_rng((seed, self.part, self.label, self.number))


def render_dataset(  # noqa: PLR0913 - what a data set is
    out: Path,
    *,
    train_per_letter: int,
    test_per_letter: int,
    size: int = 512,
    seed: int = 0,
    blank: bool = True,
    backgrounds: Path | None = None,
    on_progress: Progress = silent,
) -> int:
    """Draw a data set; pictures that already exist are left as they are, so a second call resumes or extends it.

    Parameters
    ----------
    out
        Folder of the data set, made if missing; or a zip, whose pictures lie in a folder beside it until it is whole.
    train_per_letter, test_per_letter
        Pictures of each label in either part.
    size
        Breadth and height in pixels; Lexset's pictures have 512.
    seed
        The same seed and size give the same files, byte for byte.
    blank
        Whether to add pictures of no letter, as many as of a letter.
    backgrounds
        Folder of pictures that stand behind the hands, instead of drawn ones; it is looked through to its depth.
    on_progress
        Told of every picture, as it is posed and as it is drawn.

    Returns
    -------
    Number of pictures written by this call.

    Raises
    ------
    RunError
        If ``out`` holds anything but such a data set of the same seed and size, or is a zip that is there already; if
        ``backgrounds`` has no picture, or one that cannot be read; if a number is out of range; or if a process died.
    """
    if min(train_per_letter, test_per_letter, seed) < 0 or not (train_per_letter or test_per_letter) or size < 1:
        raise RunError(
            f"found train {train_per_letter}, test {test_per_letter}, size {size} and seed {seed}; "
            "expected at least one picture of a label, of at least one pixel, and a seed from 0 on."
        )
    out = out.resolve()
    photos = _photos(backgrounds, out)
    zipped = out.suffix.lower() == ".zip"
    if zipped and out.exists():
        raise RunError(f"{out} is there already. Give another name, or delete it; a zip is written once, and whole.")
    folder, sheet = out.with_name(f".{out.name}.drawing") if zipped else out, sheet_of(out)
    before = f", backgrounds {_digest(photos)}" if photos else ""
    wanted = _Set(folder, size, seed, photos, f"{_RENDERER} {_VERSION}, seed {seed}{before}")
    _check(wanted, sheet, "a killed call left" if zipped else "")
    for place in (folder, sheet.parent):
        check_writable(place)
    items = [
        _Item(part, label, number)
        for part, count in enumerate((train_per_letter, test_per_letter))
        for label in range(len(LABELS) if blank else len(LETTERS))
        for number in range(count)
    ]
    # Before the pictures: a killed call leaves none without its truth.
    _write_table(items, wanted, on_progress, others=not zipped)
    count = _draw(items, wanted, on_progress)
    _write_sheet(items, wanted, sheet)
    if zipped:
        _pack([TABLE, *(item.path(seed).as_posix() for item in items)], folder, out)
    return count


def sheet_of(out: Path) -> Path:
    """Contact sheet of a data set: beside it, for within it would be one of its pictures."""
    out = out.resolve()
    return out.with_name(f"{out.name}.png")


def _pack(names: list[str], folder: Path, out: Path) -> None:
    """Move files of a folder into a zip."""
    with write_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), (folder / name).read_bytes())
    shutil.rmtree(folder)


def _draw(items: list[_Item], wanted: _Set, on_progress: Progress) -> int:
    """Draw the pictures that are missing; return their number."""
    missing = [item for item in items if not (wanted.out / item.path(wanted.seed)).exists()]
    done = len(items) - len(missing)
    for _ in _write_all(missing, partial(_write, wanted=wanted)):
        done += 1
        on_progress("Drawing hands", done, len(items))
    return len(missing)


def _write_table(items: list[_Item], wanted: _Set, on_progress: Progress, *, others: bool) -> None:
    """Write the truth about these pictures, and about ``others`` that are there."""
    table = wanted.out / TABLE
    rows = dict[str, list[object]]()
    if others and table.exists():
        known = csv.reader(io.StringIO(table.read_text("utf-8")))
        rows = {row[0]: [*row[1:]] for row in known if (wanted.out / row[0]).is_file()}
    for done, item in enumerate(items, start=1):
        on_progress("Posing hands", done, len(items))
        facts = _facts(LABELS[item.label], item.scene(wanted.seed, wanted.photos))
        rows[item.path(wanted.seed).as_posix()] = list(facts.values())
    write_text(table, csv_text(_columns(), ([path, *rows[path]] for path in sorted(rows))))


def _columns() -> list[str]:
    """Header of the table."""
    return ["path", *_facts("A", draw_scene("A", np.random.default_rng(0)))]


def _facts(label: str, scene: Scene) -> dict[str, object]:
    """Row of the table: label, side, box, joints in shares of the picture and in mm, and all that was drawn."""
    known = truth(scene)
    box = [round(value, 4) for value in known.box.tolist()] if known else [""] * 4
    seen = [round(value, 5) for value in known.seen.ravel().tolist()] if known else [""] * 63
    joints = [round(value, 2) for value in known.joints.ravel().tolist()] if known else [""] * 63
    places = [f"{joint}{axis}" for joint in range(21) for axis in "xyz"]
    drawn = {
        name: f"{value:.5g}" if isinstance(value, float) else int(value) if isinstance(value, bool) else value
        for name, value in parameters(scene).items()
    }
    return {
        "label": label,
        "side": ("left" if scene.view.left else "right") if known else "",
        **dict(zip(("left", "top", "right", "bottom"), box, strict=True)),
        **dict(zip([f"seen{place}" for place in places], seen, strict=True)),
        **dict(zip([f"mm{place}" for place in places], joints, strict=True)),
        **drawn,
    }


def _around(box: list[float], size: int) -> tuple[float, float, float, float]:
    """Square in pixels around a box in shares of a picture's side, moved into the picture."""
    left, top, right, bottom = box
    side = min(1.0, 1.4 * max(right - left, bottom - top))
    x, y = (min(max(middle - side / 2, 0), 1 - side) for middle in ((left + right) / 2, (top + bottom) / 2))
    return x * size, y * size, (x + side) * size, (y + side) * size


def _write_sheet(items: list[_Item], wanted: _Set, path: Path) -> None:
    """Write the first picture of each label, cut out around its hand, with its name."""
    first = dict[int, _Item]()
    for item in items:
        first.setdefault(item.label, item)
    rows = -(-len(first) // _SHEET_COLUMNS)
    sheet = Image.new("RGB", (_SHEET_COLUMNS * _SHEET_SIDE, rows * (_SHEET_SIDE + _CAPTION)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for place, (label, item) in enumerate(sorted(first.items())):
        left, top = place % _SHEET_COLUMNS * _SHEET_SIDE, place // _SHEET_COLUMNS * (_SHEET_SIDE + _CAPTION)
        known = truth(item.scene(wanted.seed, wanted.photos))
        with Image.open(wanted.out / item.path(wanted.seed)) as picture:
            part = _around(known.box.tolist(), picture.width) if known else None
            tile = picture.resize((_SHEET_SIDE, _SHEET_SIDE), Image.Resampling.BICUBIC, box=part)
        sheet.paste(tile, (left, top + _CAPTION))
        pen.text((left + _SHEET_SIDE / 2, top + _CAPTION / 2), LABELS[label], "black", font, anchor="mm")
    write_bytes(path, _png(sheet, wanted.stamp))


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
    except BrokenProcessPool as error:
        raise RunError(
            "a process that drew pictures ended at once. In a script, call this under `if __name__ == '__main__':`, "
            "for the processes read the script; otherwise memory may have run out. What is drawn stays."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _write(item: _Item, *, wanted: _Set) -> None:
    pixels = render(item.scene(wanted.seed, wanted.photos), wanted.size, wanted.photos)
    write_bytes(wanted.out / item.path(wanted.seed), _png(Image.fromarray(pixels), wanted.stamp))


def _png(picture: Image.Image, stamp: str) -> bytes:
    information = PngImagePlugin.PngInfo()
    information.add_text("Software", stamp)
    data = io.BytesIO()
    picture.save(data, format="PNG", pnginfo=information, compress_level=1)  # noise packs no better, only longer
    return data.getvalue()


def _photos(folder: Path | None, out: Path) -> tuple[Path, ...]:
    """Pictures of a user's folder, each of which can be read and has a name of its own."""
    if folder is None:
        return ()
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder of backgrounds. Check --backgrounds.")
    if folder.resolve() in (out, *out.parents):
        raise RunError(f"{out} lies among the backgrounds, and would become one. Give the data set another place.")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in images.SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not paths:
        raise RunError(
            f"{folder} has no picture ({', '.join(sorted(images.SUFFIXES))}). Give another to --backgrounds."
        )
    names = Counter(path.name for path in paths)
    for path in paths:
        if names[path.name] > 1:
            raise RunError(f"{folder} has two pictures named {path.name}; the table tells them by name. Rename one.")
        try:
            images.decode(path.read_bytes())
        except (OSError, FingerspellError) as error:
            raise RunError(f"{path} cannot be read as a background ({error}). Take it out of the folder.") from error
    return tuple(paths)


def _digest(photos: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in photos:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _check(wanted: _Set, sheet: Path, left: str) -> None:
    """Refuse a folder that holds anything but this data set, or a part of it, and a file where the sheet would be.

    ``left`` says whose the folder is, if nobody named it.
    """
    out = wanted.out
    remedy = "Give a new or empty folder, or the seed, size and backgrounds that the folder was drawn with."
    if left:
        remedy = f"It is what {left} in {out}: repeat that call, or delete the folder."
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; expected a folder to draw the data set into, or a new zip. {remedy}")
    if sheet.exists() and _RENDERER not in _origin(sheet):
        raise RunError(
            f"{sheet} is in the way of the contact sheet. Give the data set another name, or move that file."
        )
    header = ",".join(_columns()).encode() + b"\n"
    for path in _entries(out):
        if path.name == TABLE and path.is_file():
            if not path.read_bytes().startswith(header):
                raise RunError(f"{path} is not the table of a set that this version drew. {remedy}")
        elif path.name in PARTS and path.is_dir():
            _check_pictures(path, f"{wanted.size}x{wanted.size}, {wanted.stamp}", remedy)
        else:
            raise RunError(f"{out} holds {path.name!r}; expected only the folders {' and '.join(PARTS)}. {remedy}")


def _check_pictures(part: Path, expected: str, remedy: str) -> None:
    """Refuse a part of a data set that holds anything but its pictures."""
    for folder in _entries(part):
        if folder.name not in LABELS or not folder.is_dir():
            raise RunError(f"{part} holds {folder.name!r}; expected only folders A to Z and {BLANK}. {remedy}")
        for picture in _entries(folder):
            if (found := _origin(picture)) != expected:
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
