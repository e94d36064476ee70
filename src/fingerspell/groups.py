"""Who is on a picture: the archive it lies in, and the signer where a list of them says so.

The group of a picture is a name with steps: of archives that are read together, the archive's ("people"), or below it
the signer ("people/anna") where that archive holds a ``signers.csv`` with the columns path and signer. In an archive
that is read alone it is the signer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fingerspell.archive import by_part, called
from fingerspell.errors import SplitError
from fingerspell.splits import read_groups
from fingerspell.truth import rendered_among

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fingerspell.archive import Archive

SIGNERS = "signers.csv"
_RENDERED = "rendered"


def groups_of(archive: Archive, ids: Sequence[str], source: str | None = None) -> dict[str, str]:
    """Group of each picture of letters; nothing where nobody knows.

    Parameters
    ----------
    archive
        One, or several joined.
    ids
        Pictures of letters.
    source
        ``FILE[:COLUMN]`` that names the groups instead, a csv file on disk or in the archive. Rendered pictures need
        no place in it: they are a group of their own.

    Raises
    ------
    SplitError
        If a list of groups cannot be found or read, or lacks a picture.
    """
    if source:
        rendered = rendered_among(archive, ids)
        people = [name for name in ids if name not in rendered]
        return _read_source(archive, source, people) | dict.fromkeys(rendered, _RENDERED)
    if not archive.parts:
        return _signers(archive, ids)
    groups: dict[str, str] = {}
    for stem, part, own in by_part(archive, ids):
        signers = _signers(part, own)
        groups |= {f"{stem}/{name}": f"{stem}/{signers[name]}" if signers else stem for name in own}
    return groups


def _signers(archive: Archive, ids: Sequence[str]) -> dict[str, str]:
    """Signers as the archive itself names them; nothing if it does not.

    A set may be packed with its folder, so the one list may lie in the folder that all pictures lie in.
    """
    lists = called(archive, SIGNERS)
    table = lists[0] if len(lists) == 1 else SIGNERS
    folder = table.removesuffix(SIGNERS)
    if table not in lists or not all(name.startswith(folder) for name in ids):
        return {}
    own = {name.removeprefix(folder): name for name in ids}
    return {own[name]: signer for name, signer in read_groups(archive.read(table), "signer", list(own)).items()}


def _read_source(archive: Archive, source: str, ids: Sequence[str]) -> dict[str, str]:
    """Group of each picture from ``FILE[:COLUMN]``, a csv file on disk or in the archive."""
    members = {member.name for member in archive.members}
    file, _, column = source.rpartition(":")
    if Path(source).is_file() or source in members:
        file, column = source, ""
    if Path(file).is_file():
        data = Path(file).read_bytes()
    elif file in members:
        data = archive.read(file)
    else:
        raise SplitError(
            f"groups file {file or source!r}: found neither on disk nor in {archive.path.name}. "
            "Expected a csv file: --groups FILE.csv or FILE.csv:COLUMN."
        )
    return read_groups(data, column or None, ids)
