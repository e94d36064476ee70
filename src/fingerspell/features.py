"""Features of pictures, computed once and remembered.

A frozen backbone gives the same answer every epoch, so it sees each picture and view once. The vectors are kept in one
SQLite file for each engine identity (backbone, weights, preprocessing, precision), keyed by the sha256 of the picture's
bytes and the view. SQLite's transactions are what makes the cache whole after a kill at any moment and safe with
several processes; nothing here needs a lock of its own.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from fingerspell import images
from fingerspell.cache import stem
from fingerspell.errors import CacheError, DatasetError
from fingerspell.progress import silent
from fingerspell.streams import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fingerspell.archive import Archive
    from fingerspell.backbones import Preprocessing
    from fingerspell.dataset import Picture
    from fingerspell.engines import Engine
    from fingerspell.images import Pixels, View
    from fingerspell.progress import Progress

    Vectors = NDArray[np.float32]

_WAIT_S = 60.0  # for another process's transaction, which takes milliseconds
_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (text TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS vectors (picture BLOB, view TEXT, vector BLOB NOT NULL, PRIMARY KEY (picture, view));
CREATE TEMP TABLE IF NOT EXISTS wanted (row INTEGER PRIMARY KEY, picture BLOB);
"""


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes
    ----------
    pictures_decoded : int
    network_calls : int
        Batches that went through the network.
    vectors_computed, vectors_remembered : int
        Vectors made by this extraction, and those that were already there.
    """

    pictures_decoded: int = 0
    network_calls: int = 0
    vectors_computed: int = 0
    vectors_remembered: int = 0

    def __add__(self, other: Extraction) -> Extraction:
        """Sum of two extractions' work."""
        return Extraction(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class FeatureStore:
    """Feature vectors of one engine identity, in one SQLite file under ``folder``."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        identity = engine.identity
        self.path = folder / f"{stem(engine.backbone.name, identity)}.sqlite"
        self.dimension = engine.dimension
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=_WAIT_S)
            self._set_up(identity)

    def missing(self, pictures: Sequence[Picture], views: Sequence[View]) -> list[tuple[Picture, tuple[View, ...]]]:
        """Pictures of which some view is not there yet, one for each content, with those views."""
        with self._errors():
            self._want(pictures)
            rows = self._database.execute("SELECT picture, view FROM vectors NATURAL JOIN wanted")
            known = {(picture.hex(), view) for picture, view in rows}
        gaps: dict[str, tuple[Picture, tuple[View, ...]]] = {}
        for picture in pictures:
            if absent := tuple(view for view in views if (picture.sha256, view) not in known):
                gaps.setdefault(picture.sha256, (picture, absent))
        return list(gaps.values())

    def add(self, keys: Iterable[tuple[str, View]], vectors: Vectors) -> None:
        """Remember vectors (N, dimension) under their N (sha256, view) keys, all or none."""
        rows = [(bytes.fromhex(sha256), view, row.tobytes()) for (sha256, view), row in zip(keys, vectors, strict=True)]
        with self._errors(), self._database:
            self._database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", rows)

    def load(self, pictures: Sequence[Picture], views: Sequence[View]) -> Vectors:
        """Vectors of shape (pictures, views, dimension).

        Raises
        ------
        CacheError
            If one is not there: ``extract`` them first.
        """
        result = np.empty((len(pictures), len(views), self.dimension), np.float32)
        with self._errors():
            self._want(pictures)
            for column, view in enumerate(views):
                query = "SELECT row, vector FROM wanted NATURAL JOIN vectors WHERE view = ? AND length(vector) = ?"
                found = 0
                for row, vector in self._database.execute(query, (view, result.itemsize * self.dimension)):
                    result[row, column] = np.frombuffer(vector, np.float32)
                    found += 1
                if found != len(pictures):
                    raise CacheError(
                        f"{self.path}: {len(pictures) - found} of {len(pictures)} vectors of the {view} view are not "
                        "there or damaged. If the cache was cleared during the run, start it again; if not, clear it."
                    )
        return result

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _set_up(self, identity: str) -> None:
        """Make the tables. SQLite does not wait for another process while the journal's mode changes: we do."""
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.executescript(_SCHEMA)
                with self._database:
                    self._database.execute("INSERT OR IGNORE INTO identity VALUES (?)", (identity,))
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _want(self, pictures: Sequence[Picture]) -> None:
        with self._database:
            self._database.execute("DELETE FROM wanted")
            rows = ((row, bytes.fromhex(picture.sha256)) for row, picture in enumerate(pictures))
            self._database.executemany("INSERT INTO wanted VALUES (?, ?)", rows)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except CacheError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise CacheError(
                f"{self.path}: the feature cache cannot be used ({error}). Free disk space or delete this file, "
                "or point FINGERSPELL_CACHE at another folder."
            ) from error


def extract(
    archive: Archive,
    pictures: Sequence[Picture],
    engine: Engine,
    store: FeatureStore,
    *,
    views: Sequence[View] = images.VIEWS,
    on_progress: Progress = silent,
) -> Extraction:
    """Compute and remember every vector that is not in the store yet.

    Pictures are decoded by threads beside the network; memory does not grow with their number.

    Raises
    ------
    DatasetError
        If a picture's bytes are no longer those that the scan saw.
    UnreadableError
        If the archive has become unreadable since.
    """
    todo = store.missing(pictures, views)
    total = len(pictures) * len(views)
    remembered = total - sum(len(absent) for _, absent in todo)
    calls_before, computed = engine.calls, 0
    for keys, vectors in engine.stream(network_inputs(archive, todo, engine.backbone.preprocessing)):
        store.add(keys, vectors)
        computed += len(keys)
        on_progress("Computing features", remembered + computed, total)
    return Extraction(len(todo), engine.calls - calls_before, computed, remembered)


def open_store(folder: Path, engine: Engine) -> closing[FeatureStore]:
    """Open the store of an engine as a context manager."""
    return closing(FeatureStore(folder, engine))


def network_inputs(
    archive: Archive, todo: Iterable[tuple[Picture, tuple[View, ...]]], preprocessing: Preprocessing
) -> Iterator[tuple[tuple[str, View], Pixels]]:
    """Yield key and network input (size, size, 3) of every picture and view, in order."""

    def prepare(work: tuple[Picture, tuple[View, ...], bytes]) -> list[tuple[tuple[str, View], Pixels]]:
        picture, views, data = work
        pixels = images.resize(decoded(picture, data), preprocessing.size, preprocessing.interpolation)
        return [((picture.sha256, view), images.view_of(pixels, view)) for view in views]

    work = ((picture, views, archive.read(picture.id)) for picture, views in todo)
    for inputs in ordered_map(prepare, work, size=lambda item: len(item[2])):
        yield from inputs


def decoded(picture: Picture, data: bytes) -> Pixels:
    """Pixels (height, width, 3) of a picture's bytes.

    Raises
    ------
    DatasetError
        If they are no longer those that the scan saw.
    """
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise DatasetError(f"{picture.id}: the picture changed while the archive was being read. Start again.")
    return images.decode(data).pixels
