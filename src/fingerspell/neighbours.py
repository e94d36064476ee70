"""Which pictures are near-copies of each other, and which belong to one burst.

Two pictures are near-copies if their difference hashes (``images.Examined.dhash``) differ in at most ``NEAR`` of 64
bits: frames of one film a moment apart, one shot saved twice. A burst is a set of pictures of one letter that hang
together by near-copies: who has seen one of them has as good as seen them all.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from fingerspell.dataset import Picture

    Hashes = NDArray[np.uint8]

NEAR = 5  # bits; the distance that audits of this field's sets use
_CHANCE = 0.01  # of pairs that may be near-copies by chance
_CHUNK = 256  # pictures whose neighbours are listed at once: bounds memory even where all pictures are alike


def bursts(pictures: Sequence[Picture]) -> NDArray[np.int64]:
    """Number of the burst of each picture, (N,): 0, 1, ... in the order of their first pictures."""
    numbers = np.arange(len(pictures))
    for rows in _rows_by_label(pictures):
        first = np.arange(len(rows))  # of each picture's burst, as far as the pairs seen so far tell
        for pairs in _near_pairs(_hashes([pictures[row] for row in rows])):
            known = np.stack([np.arange(len(rows)), first])
            edges = np.concatenate([pairs, known], axis=1)
            graph = coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(len(rows), len(rows)))
            _, burst = connected_components(graph, directed=False)
            first = np.unique(burst, return_index=True)[1][burst]
        numbers[rows] = np.array(rows)[first]
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def has_near_copy(pictures: Sequence[Picture], among: Sequence[Picture]) -> NDArray[np.bool_]:
    """Whether each picture, (N,), has a near-copy of its own letter ``among`` others."""
    found = np.zeros(len(pictures), bool)
    others: defaultdict[str, list[Picture]] = defaultdict(list)
    for picture in among:
        others[picture.label].append(picture)
    for rows in _rows_by_label(pictures):
        if own := others[pictures[rows[0]].label]:
            found[rows] = _nearest(_hashes([pictures[row] for row in rows]), _hashes(own)) <= NEAR
    return found


def near_lag(pictures: Sequence[Picture]) -> int:
    """Frames after which a film has moved on: pairs further apart are hardly more often near-copies than any two.

    Measured on the pictures of each letter in frame order, all of which must have a frame number.
    """
    films = []
    for rows in _rows_by_label(pictures):
        film = sorted((pictures[row] for row in rows), key=lambda picture: picture.frame or 0)
        films.append((np.array([picture.frame for picture in film]), np.unpackbits(_hashes(film), axis=1)))
    longest = max(len(frames) for frames, _ in films)
    limit = max(_CHANCE, 1.5 * _near_share(films, longest // 2))  # half a film apart is as far as any
    lag, gap = 1, 0
    while lag < longest // 2 and _near_share(films, lag) > limit:
        gap = int(np.median(np.concatenate([frames[lag:] - frames[:-lag] for frames, _ in films])))
        lag += max(1, lag // 4)
    return gap


def _near_share(films: Sequence[tuple[NDArray[np.int64], NDArray[np.uint8]]], lag: int) -> float:
    """Share of near-copies among pictures that stand ``lag`` places apart in a film."""
    near = [(bits[lag:] != bits[:-lag]).sum(axis=1) <= NEAR for _, bits in films if 0 < lag < len(bits)]
    return float(np.concatenate(near).mean()) if near else 0.0


def _rows_by_label(pictures: Iterable[Picture]) -> list[list[int]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, picture in enumerate(pictures):
        rows[picture.label].append(row)
    return list(rows.values())


def _hashes(pictures: Sequence[Picture]) -> Hashes:
    """Hashes as bytes, (N, 8)."""
    joined = bytes.fromhex("".join(picture.dhash for picture in pictures))
    return np.frombuffer(joined, np.uint8).reshape(len(pictures), -1)


def _index(hashes: Hashes) -> faiss.IndexBinaryFlat:
    index = faiss.IndexBinaryFlat(8 * hashes.shape[1])
    index.add(hashes)
    return index


def _nearest(hashes: Hashes, among: Hashes) -> NDArray[np.int32]:
    """Bits to the nearest of ``among``, (N,)."""
    distances: NDArray[np.int32] = _index(among).search(hashes, 1)[0][:, 0]
    return distances


def _near_pairs(hashes: Hashes) -> Iterator[NDArray[np.int64]]:
    """Rows of near-copies, (2, pairs), a bounded number at once; each pair both ways."""
    index = _index(hashes)
    for start in range(0, len(hashes), _CHUNK):
        limits, _, rows = index.range_search(hashes[start : start + _CHUNK], NEAR + 1)  # less than the radius
        counts = (limits[1:] - limits[:-1]).astype(np.int64)
        yield np.stack([np.repeat(np.arange(start, start + len(counts)), counts), rows])
