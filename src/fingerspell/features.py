"""Features of pictures, computed once and remembered.

A frozen backbone gives the same answer every epoch, so it sees each picture and view once. The vectors are kept in one
SQLite file for each engine identity (backbone, weights, preprocessing, precision), keyed by the sha256 of the picture's
bytes and the view. SQLite's transactions are what makes the cache whole after a kill at any moment and safe with
several processes; nothing here needs a lock of its own.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
import time
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from fingerspell import images
from fingerspell.cache import stem
from fingerspell.errors import CacheError, DatasetError
from fingerspell.hands import NAME
from fingerspell.progress import silent
from fingerspell.streams import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fingerspell.archive import Archive
    from fingerspell.dataset import Picture
    from fingerspell.engines import Engine, Prepared
    from fingerspell.hands import Row
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
    """Feature vectors of one engine identity, in one SQLite file under ``folder``.

    Attributes
    ----------
    hands : FeatureStore or None
        Rows of the hands, where the engine looks for them.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        identity = engine.identity
        self.path = folder / f"{stem(engine.title, identity)}.sqlite"
        self.dimension = engine.dimension
        self.hands = FeatureStore(folder, engine.hands.engine) if engine.hands else None
        self._joined = engine.hands is not None and engine.hands.joined
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
        """Vectors of shape (pictures, views, dimension); behind the rows of the hands where the engine joins them.

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
        if self.hands and self._joined:
            return np.concatenate([self.hands.load(pictures, views), result], axis=2)
        return result

    def close(self) -> None:
        """Close the file."""
        if self.hands:
            self.hands.close()
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
    before = Extraction()
    if engine.hands and store.hands:
        before = extract(archive, pictures, engine.hands.engine, store.hands, views=views, on_progress=on_progress)
    todo = store.missing(pictures, views)
    total = len(pictures) * len(views)
    remembered = total - sum(len(absent) for _, absent in todo)
    calls_before, computed = engine.calls, 0
    for keys, vectors in engine.stream(network_inputs(archive, todo, engine, store.hands)):
        store.add(keys, vectors)
        computed += len(keys)
        on_progress("Looking for hands" if engine.title == NAME else "Computing features", remembered + computed, total)
    return before + Extraction(len(todo), engine.calls - calls_before, computed, remembered)


def open_store(folder: Path, engine: Engine) -> closing[FeatureStore]:
    """Open the store of an engine as a context manager."""
    return closing(FeatureStore(folder, engine))


def network_inputs(
    archive: Archive,
    todo: Sequence[tuple[Picture, tuple[View, ...]]],
    engine: Engine,
    hands: FeatureStore | None = None,
) -> Iterator[tuple[tuple[str, View], Prepared]]:
    """Key (sha256, view) and network input of pictures in some views, in order, in bounded memory.

    Parameters
    ----------
    archive, todo
        Pictures, and the views wanted of each.
    engine
        Prepares them.
    hands
        Rows of the hands (``FeatureStore.hands``), where the engine looks for them; they must be there.
    """
    rows = _rows(hands, todo)

    def prepare(work: tuple[Picture, tuple[View, ...], bytes]) -> list[tuple[tuple[str, View], Prepared]]:
        picture, views, data = work
        pixels = decoded(picture, data, engine.side)
        keys: list[tuple[str, View]] = [(picture.sha256, view) for view in views]
        return [(key, engine.prepare(pixels, key[1], rows.get(key))) for key in keys]

    work = ((picture, views, archive.read(picture.id)) for picture, views in todo)
    always = engine.title == NAME  # a search for the hand is worth a thread whatever the file
    for inputs in ordered_map(prepare, work, size=lambda item: math.inf if always else len(item[2])):
        yield from inputs


def _rows(hands: FeatureStore | None, todo: Sequence[tuple[Picture, tuple[View, ...]]]) -> dict[tuple[str, View], Row]:
    """Row of the hand in each view of each picture; none without a store."""
    rows: dict[tuple[str, View], Row] = {}
    for view in {view for _, views in todo for view in views} if hands else ():
        pictures = [picture for picture, views in todo if view in views]
        loaded = hands.load(pictures, (view,))[:, 0] if hands else ()
        rows |= {(picture.sha256, view): row for picture, row in zip(pictures, loaded, strict=True)}
    return rows


def decoded(picture: Picture, data: bytes, side: int | None = None) -> Pixels:
    """Pixels (height, width, 3) of a picture's bytes; ``side`` as for ``images.decode``.

    Raises
    ------
    DatasetError
        If they are no longer those that the scan saw.
    """
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise DatasetError(f"{picture.id}: the picture changed while the archive was being read. Start again.")
    return images.decode(data, side).pixels
