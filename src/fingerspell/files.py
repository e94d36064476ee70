"""Atomic writes: a file is there whole or not at all; tables as text; what a folder of ours holds, or could hold."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import tempfile
from typing import TYPE_CHECKING, BinaryIO, Literal

from fingerspell.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


Result = Literal["a study of strangers", "a run", "an evaluation", "a comparison", "an explanation"]

_TEMPORARY = ".partial"
# By which files a result is known, finished or not: a study may hold the recipe of a model of all groups, and a run has
# scores as an evaluation has.
_MARKS: dict[Result, tuple[str, ...]] = {
    "a study of strangers": ("strangers.json", "folds/*/recipe.toml"),
    "a run": ("recipe.toml",),
    "an evaluation": ("metrics.json",),
    "a comparison": ("comparison.json",),
    "an explanation": ("explanation.json",),
}


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, atomically; parent folders are made."""
    with write_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """File to write to, under a temporary name until the block ends well; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 - mkstemp makes files for the owner alone
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def file_digest(path: Path) -> str:
    """Sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Make a folder, and refuse one that cannot be made or written: before the work and not after it.

    Raises
    ------
    RunError
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror}), expected a folder for the results. Choose another place "
            "for them."
        ) from error


def is_temporary(path: Path) -> bool:
    """Whether a file is what a write that was killed left behind."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def result_in(folder: Path) -> Result | None:
    """What a folder holds of what we write, finished or not; None: nothing."""
    return next((result for result, marks in _MARKS.items() if any(any(folder.glob(m)) for m in marks)), None)


def check_folder(folder: Path, *, result: Result, overwrite: bool) -> None:
    """Refuse a folder for a result that holds something else, or a finished one, or that cannot be written.

    The report is written last and so marks a finished one.

    Raises
    ------
    RunError
    """
    if folder.is_file():
        raise RunError(
            f"{folder}: found a file, expected a folder for {result}, or none yet. Choose another with --out."
        )
    there = next((path for path in folder.rglob("*") if path.is_file() and not is_temporary(path)), None)
    report = folder / "report.html"
    found = result_in(folder)
    if there and found != result:
        raise RunError(
            f"{folder}: this folder holds something else ({there.name}, ...): found {found or 'nothing of ours'}, "
            f"expected {result}. Choose another folder with --out; nothing was changed."
        )
    if report.exists() and not overwrite:
        raise RunError(
            f"{folder}: {result} is already there, and finished; see {report}. "
            "To do it again give --overwrite, to keep both give another --out."
        )
    check_writable(folder)


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Table as the text of a csv file, with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
