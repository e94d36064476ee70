"""From an archive to a table with one row a picture."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from fingerspell import images
from fingerspell.alphabet import is_letter, label_of
from fingerspell.cache import remember
from fingerspell.errors import DatasetError, UnreadableError
from fingerspell.files import csv_text
from fingerspell.progress import silent
from fingerspell.streams import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fingerspell.archive import Archive, Member
    from fingerspell.progress import Progress

# A run goes on without its bad pictures while they are at most this share: beyond it the archive itself is broken.
MAX_BAD_SHARE = 0.10

# Files read before their turn: enough to keep every processor busy, and few enough to hold if all were large.
_AHEAD = 32

# Part of the key under which a scan is remembered: raise it whenever a row would come out different.
_SCAN_VERSION = 2

_PART = re.compile(r"(?<![^\W_])(train|test|val)(?:ing|id|idation)?(?![^\W_])", re.IGNORECASE)
_PARTS = {"train": "train", "test": "test", "val": "validation"}

# `A123`, `img_0007`, `7`: what a camera or a frame extractor writes. Not the digits at the end of a uuid or a hash.
_FRAME = re.compile(r"(?<!\d)(\d{1,18})$")
_RANDOM = re.compile(
    r"(?<![0-9a-z])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=\d*[a-f]\d*[a-f])[0-9a-f]{16,})$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a data set.

    Attributes
    ----------
    id : str
        Path inside the archive.
    label : str
        A letter, one of the known non-letters, or "" where the folder is unknown.
    sha256 : str
        Hex digest of the file's bytes ("" if they could not be read).
    width, height : int
        Upright size in pixels (0 if unreadable).
    format : str
        As Pillow names it ("JPEG", "PNG", ...).
    frame : int or None
        Number at the end of the file name: the video frame, in the sets that are films.
    part : str
        "train", "test" or "validation" where the path says so, else "".
    problem : str
        Why the picture is left out; "" for a good one.
    dhash : str
        Difference hash of what it shows (``images.Examined``); "" if unreadable.
    """

    id: str
    label: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    frame: int | None = None
    part: str = ""
    problem: str = ""
    dhash: str = ""


_COLUMNS = tuple(field.name for field in fields(Picture))
_row = attrgetter(*_COLUMNS)  # dataclasses.astuple copies every value, and takes a second for 29,000 pictures


@dataclass(frozen=True)
class Dataset:
    """All pictures of an archive, and the counts of what else lies in it.

    Attributes
    ----------
    name : str
        File name of the archive.
    pictures : tuple of Picture
        In the order of the archive, bad ones and non-letters included.
    ignored : mapping of str to int
        Files that are no pictures, by kind.
    """

    name: str
    pictures: tuple[Picture, ...]
    ignored: Mapping[str, int]

    @property
    def unknown_folders(self) -> dict[str, int]:
        """Folders whose name is neither a letter nor a known non-letter, with their pictures counted."""
        folders = (PurePosixPath(p.id).parent.as_posix() for p in self.pictures if not p.label)
        return dict(Counter("(top level)" if folder == "." else folder for folder in folders))

    @property
    def digest(self) -> str:
        """Hex digest of what the pictures are: ids, labels and contents."""
        lines = (f"{p.id}\t{p.label}\t{p.sha256}" for p in self.pictures)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def part(self, stem: str) -> Dataset:
        """One of the archives that were read as one, as if it had been read alone."""
        start = f"{stem}/"
        own = (replace(p, id=p.id.removeprefix(start)) for p in self.pictures if p.id.startswith(start))
        return Dataset(stem, tuple(own), {})

    def letters(self) -> tuple[Picture, ...]:
        """Good pictures of the 26 letters.

        Raises
        ------
        DatasetError
            If there are none, if a letter that has a folder has no good picture, or if more than ``MAX_BAD_SHARE`` of
            the pictures of letters are bad.
        """
        found = [p for p in self.pictures if is_letter(p.label)]
        good = tuple(p for p in found if not p.problem)
        if not found:
            raise DatasetError(_no_letters(self))
        if empty := {p.label for p in found} - {p.label for p in good}:
            letter = min(empty)
            bad = [p for p in found if p.label == letter]
            raise DatasetError(
                f"{self.name}: letter {letter} would be empty: none of its {len(bad)} pictures can be read "
                f"(the first, {bad[0].id}: {bad[0].problem}). Repair or remove that folder."
            )
        if len(found) - len(good) > MAX_BAD_SHARE * len(found):
            first = next(p for p in found if p.problem)
            raise DatasetError(
                f"{self.name}: {len(found) - len(good)} of {len(found)} pictures of letters cannot be read, more than "
                f"{MAX_BAD_SHARE:.0%} (the first, {first.id}: {first.problem}). The archive seems broken: fetch it "
                "again, or see all problems with `fingerspell inspect`."
            )
        return good

    def to_csv(self) -> str:
        """Table with one row a picture."""
        return csv_text(_COLUMNS, map(_row, self.pictures))


def scan(archive: Archive, *, memory: Path | None = None, on_progress: Progress = silent) -> Dataset:
    """Read every picture of an archive once and list it, good or bad.

    Parameters
    ----------
    archive
        Opened archive.
    memory
        Folder that remembers scans, so that an unchanged archive is not read again.

    Raises
    ------
    DatasetError
        If the archive holds no picture, or one class under two spellings ("a" and "A").
    """
    name = archive.path.absolute().name  # "." has no name
    if archive.parts:
        parts = {s: scan(part, memory=memory, on_progress=on_progress) for s, part in archive.parts.items()}
        return _joined(name, parts)
    remembered = memory / f"{archive.fingerprint}-{_SCAN_VERSION}.json" if memory else None
    if remembered and remembered.exists():
        with suppress(ValueError, LookupError, TypeError):  # damaged from outside: scan again
            return _from_json(name, remembered.read_text("utf-8"))
    members, ignored = sort_out(archive.members)
    if not members:
        raise DatasetError(
            f"{archive.path}: no pictures found among {len(archive.members)} files. "
            "Expected one folder a letter (A/, B/, ...) with JPEG or PNG pictures."
        )
    labels = _labels([member.name for member in members])
    rows = _read(archive, members, labels)
    pictures = []
    for picture in ordered_map(_examine, rows, size=lambda row: len(row[1]), ahead=_AHEAD):
        pictures.append(picture)
        on_progress("Reading pictures", len(pictures), len(members))
    dataset = Dataset(name, tuple(pictures), ignored)
    if remembered:
        remember(remembered, _to_json(dataset).encode())
    return dataset


def _joined(name: str, parts: Mapping[str, Dataset]) -> Dataset:
    """Data set of several archives: each is read by its own layout, and remembered alone."""
    pictures = (replace(p, id=f"{stem}/{p.id}") for stem, part in parts.items() for p in part.pictures)
    ignored = Counter[str]()
    for part in parts.values():
        ignored.update(part.ignored)
    return Dataset(name, tuple(pictures), dict(ignored))


def sort_out(members: Iterable[Member]) -> tuple[list[Member], dict[str, int]]:
    """Pictures, and counts of everything else by kind."""
    pictures, ignored = [], Counter[str]()
    for member in members:
        path = PurePosixPath(member.name)
        if "__MACOSX" in path.parts:
            ignored["__MACOSX"] += 1
        elif path.suffix.lower() not in images.SUFFIXES:
            ignored[path.suffix.lower() or path.name] += 1
        elif any(step.startswith(".") and step != ".." for step in path.parts):
            ignored["hidden"] += 1
        else:
            pictures.append(member)
    return pictures, dict(ignored)


def _labels(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Label and part of each path.

    The class root of a path is the folder above it whose subfolders name the most classes; the step below it is the
    class. So any number of levels above or below the class folders does no harm.
    """
    paths = [PurePosixPath(name) for name in names]
    folders = {path.parent for path in paths}
    children: defaultdict[PurePosixPath, set[str]] = defaultdict(set)
    for folder in folders:
        for step in (folder, *folder.parents):
            children[step.parent].add(step.name)
    classes = {folder: sum(label_of(name) is not None for name in below) for folder, below in children.items()}
    for folder, below in children.items():
        _refuse_two_spellings(folder, below)
    found = {folder: _class_of(folder, classes) for folder in folders}
    return {name: _label(path, *found[path.parent]) for name, path in zip(names, paths, strict=True)}


def _class_of(folder: PurePosixPath, classes: Mapping[PurePosixPath, int]) -> tuple[str, str]:
    """Label and part of the pictures in a folder."""
    root = max(folder.parents, key=lambda parent: classes.get(parent, 0), default=None)
    if root is not None and classes.get(root, 0):
        return label_of(folder.relative_to(root).parts[0]) or "", _part(root)
    return "", _part(folder)


def _label(path: PurePosixPath, label: str, part: str) -> tuple[str, str]:
    if not label and path.stem.lower().endswith("_test"):
        # The Kaggle set's test folder is flat: A_test.jpg, B_test.jpg, ...
        return label_of(path.stem[: -len("_test")]) or "", _part(path.parent)
    return label, part


def _part(folder: PurePosixPath) -> str:
    """Part that the deepest folder of a path names; one that names two ("train_test_split") names none."""
    for step in reversed(folder.parts):
        parts = {_PARTS[part.lower()] for part in _PART.findall(step)}
        if len(parts) == 1:
            return parts.pop()
    return ""


def _refuse_two_spellings(folder: PurePosixPath, names: Iterable[str]) -> None:
    spellings: dict[str, str] = {}
    for name in sorted(names):
        label = label_of(name)
        if label and label in spellings:
            raise DatasetError(
                f"two folders for one class in {folder}: {spellings[label]!r} and {name!r} both mean {label}. "
                "Whether they belong together cannot be guessed: merge or rename one of them."
            )
        if label:
            spellings[label] = name


def _read(
    archive: Archive, members: Iterable[Member], labels: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[Picture, bytes]]:
    """Rows with what the path says, and the bytes to examine."""
    for member in members:
        label, part = labels[member.name]
        picture = Picture(member.name, label, frame=_frame(member.name), part=part)
        try:
            yield picture, archive.read(member.name)
        except UnreadableError as error:
            yield replace(picture, problem=str(error)), b""


def _examine(row: tuple[Picture, bytes]) -> Picture:
    """Row with what the content says."""
    picture, data = row
    if picture.problem:
        return picture
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        found = images.examine(data)
    except UnreadableError as error:
        return replace(picture, sha256=sha256, problem=str(error))
    problem = "" if picture.label else "unknown folder"
    return replace(
        picture,
        sha256=sha256,
        width=found.width,
        height=found.height,
        format=found.format,
        problem=problem,
        dhash=found.dhash,
    )


def _frame(name: str) -> int | None:
    stem = PurePosixPath(name).stem
    number = None if _RANDOM.search(stem) else _FRAME.search(stem)
    return int(number[1]) if number else None


def _no_letters(dataset: Dataset) -> str:
    folders = ", ".join(list(dataset.unknown_folders)[:5]) or "non-letters only"
    return (
        f"{dataset.name}: no pictures of letters. Found {len(dataset.pictures)} pictures in: {folders}. "
        "Expected folders named after the letters (A/, B/, ..., in any case, one or more levels down)."
    )


def _to_json(dataset: Dataset) -> str:
    return json.dumps({"ignored": dataset.ignored, "pictures": list(map(_row, dataset.pictures))})


def _from_json(name: str, text: str) -> Dataset:
    content = json.loads(text)
    return Dataset(name, tuple(Picture(*row) for row in content["pictures"]), dict(content["ignored"]))
