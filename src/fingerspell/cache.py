"""Where scans and features are remembered between runs, and how to see and clear them.

<cache>/scans/<fingerprint>.json      what an archive holds (dataset.py)
<cache>/graphs/<backbone>.json        what a backbone is like, so that it need not be loaded (backbones.py)
<cache>/graphs/<backbone>.onnx        a backbone as an ONNX graph, in float32 and in 8 bits (graphs.py)
<cache>/tuned/<backbone>/             weights of a backbone trained on pictures, or its checkpoint (finetuning.py)
<cache>/models/<file>                 a model of another maker that was fetched (hands.py)
<cache>/features/<backbone>.sqlite    feature vectors of one backbone, preprocessing and precision (features.py)
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from fingerspell.errors import CacheError
from fingerspell.files import is_temporary, write_bytes

_SIDECARS = ("-wal", "-shm")  # SQLite's own, beside the file they belong to


@dataclass(frozen=True)
class CacheEntry:
    """One remembered file: its kind ("features", "tuned", "graphs", "models" or "scans"), path and bytes on disk."""

    kind: str
    path: Path
    size: int


def cache_folder() -> Path:
    """Folder of the cache: ``$FINGERSPELL_CACHE``, or the place where caches belong on this system."""
    given = os.environ.get("FINGERSPELL_CACHE")
    return Path(given) if given else user_cache_path("fingerspell")


def scans_folder() -> Path:
    """Folder of the remembered scans."""
    return cache_folder() / "scans"


def graphs_folder() -> Path:
    """Folder of the remembered graphs."""
    return cache_folder() / "graphs"


def tuned_folder() -> Path:
    """Folder of the remembered weights."""
    return cache_folder() / "tuned"


def models_folder() -> Path:
    """Folder of the fetched models."""
    return cache_folder() / "models"


def features_folder() -> Path:
    """Folder of the remembered features."""
    return cache_folder() / "features"


def stem(name: str, identity: str) -> str:
    """File name, without its suffix, for what belongs to a backbone's ``name`` and to all of ``identity``."""
    readable = re.sub(r"[^\w.-]+", "_", name)
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def remember(path: Path, data: bytes) -> None:
    """Write a file of the cache, atomically.

    Raises
    ------
    CacheError
        If the folder cannot be written or the disk is full.
    """
    try:
        write_bytes(path, data)
    except OSError as error:
        raise CacheError(
            f"{path}: the cache cannot be written ({error.strerror or error}). Free disk space, or point "
            "FINGERSPELL_CACHE at another folder."
        ) from error


def entries() -> list[CacheEntry]:
    """All that is remembered, features first."""
    found = [
        *(("features", path) for path in sorted(features_folder().glob("*.sqlite"))),
        *(("tuned", path) for path in sorted(tuned_folder().glob("*/*")) if not is_temporary(path)),
        *(("graphs", path) for path in sorted(graphs_folder().glob("*.*")) if not is_temporary(path)),
        *(("models", path) for path in sorted(models_folder().glob("*.*")) if not is_temporary(path)),
        *(("scans", path) for path in sorted(scans_folder().glob("*.json"))),
    ]
    return [CacheEntry(kind, path, sum(p.stat().st_size for p in _files(path))) for kind, path in found]


def clear() -> int:
    """Delete all that is remembered, and nothing else; return the bytes freed.

    A run in another process goes on to its end; what it computes is then forgotten.
    """
    freed = 0
    for leftover in filter(
        is_temporary,
        (
            *(path for folder in (scans_folder(), graphs_folder(), models_folder()) for path in folder.glob("*")),
            *tuned_folder().glob("*/*"),
        ),
    ):
        leftover.unlink(missing_ok=True)
    for entry in entries():
        freed += entry.size
        for path in _files(entry.path):
            path.unlink(missing_ok=True)
    return freed


def _files(path: Path) -> list[Path]:
    return [path, *(p for sidecar in _SIDECARS if (p := Path(f"{path}{sidecar}")).exists())]
