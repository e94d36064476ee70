"""Where the hands are in pictures that were drawn: what a rendered set says of them, as a detector would say it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np

from fingerspell import hands
from fingerspell.archive import by_part, called
from fingerspell.errors import DatasetError
from fingerspell.rendering.generate import TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fingerspell.archive import Archive
    from fingerspell.hands import Row

_POINTS = [f"{point}{axis}" for point in range(hands.POINTS) for axis in "xyz"]
_SEEN, _SPACE = [f"seen{name}" for name in _POINTS], [f"mm{name}" for name in _POINTS]


def true_rows(archive: Archive, ids: Sequence[str]) -> dict[str, Row]:
    """Rows of ``hands.ROW`` values by picture, where the archive has the table of a rendered set; others are left out.

    Parameters
    ----------
    archive
        One, or several joined.
    ids
        Pictures.

    Raises
    ------
    DatasetError
        If a table cannot be read.
    """
    if not archive.parts:
        return _rows(archive, ids)
    rows: dict[str, Row] = {}
    for stem, part, own in by_part(archive, ids):
        rows |= {f"{stem}/{name}": row for name, row in _rows(part, own).items()}
    return rows


def rendered_among(archive: Archive, ids: Sequence[str]) -> frozenset[str]:
    """Ids of those pictures that lie in rendered sets: nobody's hands are on them."""
    if not archive.parts:
        return frozenset(_within(archive, ids))
    return frozenset(f"{stem}/{name}" for stem, part, own in by_part(archive, ids) for name in _within(part, own))


def _table(archive: Archive) -> str | None:
    """Name of the one table of a rendered set; its pictures lie in its folder, for a set may be packed with it."""
    tables = called(archive, TABLE)
    return tables[0] if len(tables) == 1 else None


def _within(archive: Archive, ids: Sequence[str]) -> list[str]:
    table = _table(archive)
    return [name for name in ids if name.startswith(table.removesuffix(TABLE))] if table else []


def _rows(archive: Archive, ids: Sequence[str]) -> dict[str, Row]:
    name = _table(archive)
    if name is None:
        return {}
    folder = name.removesuffix(TABLE)
    try:
        table = csv.DictReader(io.StringIO(archive.read(name).decode("utf-8")), strict=True)
        known = {folder + row["path"]: _row(row) for row in table}
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{name} in {archive.path.name}: not the table of a rendered set ({error!r}). Expected the columns "
            "that `fingerspell render` writes; render the set again, or take the file out of the archive."
        ) from error
    return {picture: known[picture] for picture in ids if picture in known}


def _row(facts: dict[str, str]) -> Row:
    row = np.zeros(hands.ROW, np.float32)
    row[hands.SHAPE], row[hands.STEP] = 1, hands.DRAWN
    if facts["side"] not in ("left", "right", ""):
        raise ValueError(f"side {facts['side']!r}")
    if facts["side"]:
        row[hands.FOUND] = row[hands.SURE] = 1
        row[hands.RIGHT] = facts["side"] == "right"
        row[hands.PICTURE] = [float(facts[name]) for name in _SEEN]
        metres = np.array([float(facts[name]) for name in _SPACE], np.float32).reshape(-1, 3) / 1000
        row[hands.WORLD] = (metres - metres.mean(axis=0)).ravel()
    return row
