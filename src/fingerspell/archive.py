"""Zip, tar and folder behind one interface: list the members, read one's bytes.

Archives are read in place. Nothing is unpacked, changed or deleted, so a name that points outside the archive can do no
harm; it is still listed as a problem, because whoever made it did not make an honest data set.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, cast

from fingerspell.errors import ArchiveError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# A phone's largest JPEG has about 30 MB. A member beyond twice that is a bomb or a film, and is never read.
MAX_MEMBER_BYTES = 64 * 2**20

_ENCRYPTED = 0x1  # bit 0 of a zip entry's general purpose flags (APPNOTE 4.4.4)

# What zipfile, tarfile and the decompressors raise on damaged bytes.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)

_ZIP_MAGIC = (b"PK\x03\x04",)
_TAR_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # gz, bz2, xz: a cut one is still known for what it was


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: its path ("/" between parts), declared bytes, why it cannot be read ("": it can)."""

    name: str
    size: int
    problem: str = ""


class Archive(ABC):
    """A collection of named files, read in place; a context manager.

    Attributes
    ----------
    path : Path
        The zip or tar file, or the folder.
    members : tuple of Member
        All files, in the order in which they are cheapest to read.
    fingerprint : str
        Hex digest that changes when the archive does (names, sizes, times or checksums; no content is read).
    """

    path: Path
    members: tuple[Member, ...]
    fingerprint: str

    @property
    def parts(self) -> Mapping[str, Archive]:
        """Archives that this one joins, by the first step of its members' names; none for a single one."""
        return {}

    def read(self, name: str) -> bytes:
        """Bytes of one member.

        Raises
        ------
        UnreadableError
            If this one member is damaged, encrypted, too large or has an unsafe name; others may be fine.
        """
        if problem := self._problems[name]:
            raise UnreadableError(problem)
        try:
            with self._open(name) as file:
                data = file.read(MAX_MEMBER_BYTES + 1)
        except _DAMAGE as error:
            raise UnreadableError(f"damaged in the archive ({_reason(error)})") from error
        except (NotImplementedError, RuntimeError) as error:  # zipfile's words for method and password
            raise UnreadableError(f"cannot be unpacked ({_reason(error)})") from error
        if len(data) > MAX_MEMBER_BYTES:
            raise UnreadableError(_too_large(len(data)))
        return data

    @cached_property
    def _problems(self) -> dict[str, str]:
        return {member.name: member.problem for member in self.members}

    @abstractmethod
    def _open(self, name: str) -> IO[bytes]: ...

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close the file behind the archive."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ZipArchive(Archive):
    """A zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (*_DAMAGE, NotImplementedError) as error:
            raise ArchiveError(
                f"{path}: not a whole zip file ({_reason(error)}). Probably cut while downloading: fetch it again."
            ) from error
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        self._infos = {_clean(info.filename): info for info in infos}  # of two entries of one name the last one counts
        self.members = tuple(Member(name, i.file_size, _zip_problem(name, i)) for name, i in self._infos.items())
        self.fingerprint = _fingerprint(path, (f"{name} {i.file_size} {i.CRC}" for name, i in self._infos.items()))

    def _open(self, name: str) -> IO[bytes]:
        return self._zip.open(self._infos[name])

    def close(self) -> None:
        """Close the zip file."""
        self._zip.close()


class TarArchive(Archive):
    """A tar file, compressed or not. A compressed one is quick only when read in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with ExitStack() as opened:
                self._tar = opened.enter_context(tarfile.open(path, "r:*"))
                infos = [info for info in self._tar.getmembers() if not info.isdir()]
                _check_end(self._tar)
                opened.pop_all()  # from here on closed by close()
        except _DAMAGE as error:
            raise ArchiveError(
                f"{path}: not a whole tar file ({_reason(error)}). Probably cut while downloading: fetch it again."
            ) from error
        self._infos = {_clean(info.name): info for info in infos}
        self.members = tuple(Member(name, i.size, _tar_problem(name, i)) for name, i in self._infos.items())
        self.fingerprint = _fingerprint(path, (f"{name} {i.size} {i.mtime}" for name, i in self._infos.items()))

    def _open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(self._infos[name])
        if file is None:
            raise tarfile.ReadError("not a regular file")
        return file

    def close(self) -> None:
        """Close the tar file."""
        self._tar.close()


class FolderArchive(Archive):
    """A folder on disk; links to other folders are not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._paths = {_clean(file.relative_to(path).as_posix()): file for file in _files(path)}
        stats = {name: file.stat() for name, file in self._paths.items()}
        self.members = tuple(Member(name, stat.st_size, _problem(name, stat.st_size)) for name, stat in stats.items())
        self.fingerprint = _fingerprint(
            path, (f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats.items())
        )

    def _open(self, name: str) -> IO[bytes]:
        return self._paths[name].open("rb")


class JoinedArchive(Archive):
    """Several archives as one: a member's name is that of its archive's file, without the suffix, and its own.

    They stand in the order of these names, so that the order in which they were given decides nothing.
    """

    def __init__(self, archives: Sequence[Archive]) -> None:
        self._parts = {stem_of(archive.path): archive for archive in sorted(archives, key=lambda a: stem_of(a.path))}
        self.path = Path(" + ".join(_name(archive.path) for archive in self._parts.values()))  # for people to read
        self.members = tuple(
            Member(f"{stem}/{member.name}", member.size, member.problem)
            for stem, archive in self._parts.items()
            for member in archive.members
        )
        lines = "\n".join(f"{stem} {archive.fingerprint}" for stem, archive in self._parts.items())
        self.fingerprint = hashlib.sha256(lines.encode()).hexdigest()

    @property
    def parts(self) -> Mapping[str, Archive]:
        """The archives, by the first step of their members' names."""
        return self._parts

    def _open(self, name: str) -> IO[bytes]:
        stem, _, inside = name.partition("/")
        return self._parts[stem]._open(inside)  # noqa: SLF001 - one of its own kind

    def close(self) -> None:
        """Close all of them."""
        for archive in self._parts.values():
            archive.close()


def by_part(archive: Archive, ids: Sequence[str]) -> Iterator[tuple[str, Archive, list[str]]]:
    """Stem of each joined archive, the archive, and those of the ids that lie in it, as it names them itself."""
    for stem, part in archive.parts.items():
        home = f"{stem}/"
        yield stem, part, [name.removeprefix(home) for name in ids if name.startswith(home)]


def called(archive: Archive, file: str) -> list[str]:
    """Names of the members that are called so, in whatever folder: a set may be packed with its own."""
    return [member.name for member in archive.members if member.name.rpartition("/")[2] == file]


def open_archives(sources: Path | str | Sequence[Path | str]) -> Archive:
    """Open one source as ``open_archive`` does, or several as one archive.

    Raises
    ------
    ArchiveError
        If there is none, one cannot be opened, or two have one name.
    """
    paths = [Path(source) for source in ([sources] if isinstance(sources, Path | str) else sources)]
    if not paths:
        raise ArchiveError("no archive given: found none, expected at least one zip file, tar file or folder. Name it.")
    if len(paths) == 1:
        return open_archive(paths[0])
    names = Counter(stem_of(path) for path in paths)
    stem, count = names.most_common(1)[0]
    if count > 1:
        same = ", ".join(str(path) for path in paths if stem_of(path) == stem)
        raise ArchiveError(
            f"{same}: found {count} archives of the name {stem!r}; expected a name of its own for each, which its "
            "pictures are known by. Rename one of them, or give it once."
        )
    with ExitStack() as opened:
        archives = [opened.enter_context(open_archive(path)) for path in paths]
        opened.pop_all()  # from here on closed by close()
    return JoinedArchive(archives)


def stem_of(path: Path) -> str:
    """Name that the pictures of an archive are known by among others: the file's without its suffix, or a folder's."""
    name = _name(path)
    if path.is_dir():
        return name
    return re.sub(r"(\.tar)?\.\w+$", "", name) or name


def _name(path: Path) -> str:
    return _clean(path.absolute().name)  # "." has no name


def open_archive(path: Path | str) -> Archive:
    """Open a zip file, a tar file (plain, gz, bz2, xz) or a folder, by its content and not by its name.

    Raises
    ------
    ArchiveError
        If nothing is there, or it is none of the three, or it is cut.
    """
    path = Path(path)
    if path.is_dir():
        return FolderArchive(path)
    if not path.exists():
        raise ArchiveError(f"{path}: there is no such file or folder. Check the path.")
    if path.stat().st_size == 0:
        raise ArchiveError(f"{path}: the file is empty. Expected a zip file, a tar file or a folder of pictures.")
    if packed := packed_as(path):
        return packed(path)
    raise ArchiveError(
        f"{path}: neither a zip file nor a tar file nor a folder. Pack the class folders (A/, B/, ...) as one of these."
    )


def packed_as(path: Path) -> type[ZipArchive | TarArchive] | None:
    """What a file is by its content; None if it is neither a zip nor a tar file."""
    if _starts_with(path, _ZIP_MAGIC):
        return ZipArchive
    if _starts_with(path, _TAR_MAGIC) or tarfile.is_tarfile(path):
        return TarArchive
    return ZipArchive if _ends_as_zip(path) else None  # something before the first entry, as in what unpacks itself


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, onerror=_refuse):
        folders.sort()
        yield from (file for name in sorted(names) if (file := Path(root, name)).is_file())


def _refuse(error: OSError) -> None:
    raise ArchiveError(f"{error.filename}: the folder cannot be listed ({error.strerror}). Check its permissions.")


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse a file without the zeros that end a tar file: tarfile takes a cut or damaged header for the end."""
    file = cast("IO[bytes]", tar.fileobj)
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header and no end of the archive at byte {tar.offset:,}")
    while file.read(2**20):  # to the end: only there gz, bz2 and xz check their sums
        pass


def _clean(name: str) -> str:
    """Member name with "/" between its parts and no bytes that are not text."""
    return name.replace("\\", "/").removeprefix("./").encode("utf-8", "backslashreplace").decode()


def _zip_problem(name: str, info: zipfile.ZipInfo) -> str:
    return "encrypted" if info.flag_bits & _ENCRYPTED else _problem(name, info.file_size)


def _tar_problem(name: str, info: tarfile.TarInfo) -> str:
    return _problem(name, info.size) if info.isreg() else "a link or device, not a regular file"


def _problem(name: str, size: int) -> str:
    if name.startswith("/") or re.match("[A-Za-z]:/", name) or ".." in name.split("/"):
        return "name points outside the archive"
    return _too_large(size) if size > MAX_MEMBER_BYTES else ""


def _too_large(size: int) -> str:
    return f"too large ({size / 2**20:,.0f} MiB unpacked, at most {MAX_MEMBER_BYTES / 2**20:.0f} MiB are read)"


def _fingerprint(path: Path, lines: Iterable[str]) -> str:
    """Digest of what lists the members, and of the archive file's own size and time."""
    stat = path.stat()
    digest = hashlib.sha256(b"" if path.is_dir() else f"{stat.st_size} {stat.st_mtime_ns}".encode())
    for line in lines:
        digest.update(b"\n" + line.encode())
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _ends_as_zip(path: Path) -> bool:
    """Whether a file ends as zip files do, even if what stands there is wrong (``is_zipfile`` then raises)."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _starts_with(path: Path, magics: tuple[bytes, ...]) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(magics)
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be opened ({error.strerror}). Check its permissions.") from error
