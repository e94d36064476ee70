"""Atomic writes: a file is there whole or not at all; and tables as text."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


_TEMPORARY = ".partial"


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


def is_temporary(path: Path) -> bool:
    """Whether a file is what a write that was killed left behind."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


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
