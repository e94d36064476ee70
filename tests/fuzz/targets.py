"""What the fuzzer runs, and the test suite on every seed: a reader on any bytes, which may raise our own errors alone.

Each target takes the bytes and an empty folder. It returns whether they were read; any exception that is no
``FingerspellError`` goes through, and so does a wrong answer, as ``AssertionError``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fingerspell import explanation, images, inspection, looks, splits
from fingerspell.alphabet import is_letter
from fingerspell.archive import open_archive
from fingerspell.dataset import scan
from fingerspell.errors import FingerspellError, UnreadableError
from fingerspell.model import load_model
from fingerspell.recipes import load_recipe

CORPUS = Path(__file__).parent / "corpus"

_BETWEEN = b"\n----\n"  # between the parts of a model folder, in one input
_PICTURES = ["A/A1.png", "A/A2.png", "B/B1.png"]


def archive(data: bytes, folder: Path) -> bool:
    """A zip or tar file, and the same bytes below gzip, where chance alone would hardly reach: open, scan, inspect."""
    packed = b"" if data.startswith(b"PK") else gzip.compress(data, 1)
    read = [_inspected(content, folder) for content in (data, packed) if content]
    return any(read)


def image(data: bytes, _folder: Path) -> bool:
    """A picture: ``decode`` and ``examine`` agree on whether it can be read, and on its size and format."""
    try:
        decoded = images.decode(data)
    except UnreadableError:
        decoded = None
    try:
        examined = images.examine(data)
    except UnreadableError:
        examined = None
    assert (decoded is None) == (examined is None)
    if decoded and examined:
        assert decoded.pixels.shape == (examined.height, examined.width, 3)
        assert decoded.format == examined.format
    return decoded is not None


def model(data: bytes, folder: Path) -> bool:
    """A model folder of model.json, model.onnx and SHA256SUMS; without the last one its digests are made to fit."""
    card, _, rest = data.partition(_BETWEEN)
    graph, _, sums = rest.partition(_BETWEEN)
    files = {"model.json": card, "model.onnx": graph, "head.safetensors": b""}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    fitting = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    (folder / "SHA256SUMS").write_bytes(sums or fitting.encode())
    try:
        load_model(folder)
    except FingerspellError:
        return False
    return True


def recipe(data: bytes, folder: Path) -> bool:
    """A recipe file; one that is read can be written, and is then read as the same."""
    path = folder / "recipe.toml"
    path.write_bytes(data)
    try:
        found = load_recipe(str(path))
    except FingerspellError:
        return False
    path.write_text(found.to_toml(), "utf-8")
    assert load_recipe(str(path)) == found
    return True


def csv(data: bytes, _folder: Path) -> bool:
    """A table of groups, with and without the name of a column, or of hand boxes."""
    readers: list[Callable[[], object]] = [
        lambda: splits.read_groups(data, None, _PICTURES),
        lambda: splits.read_groups(data, "signer", _PICTURES),
        lambda: explanation.read_boxes(data, _PICTURES),
    ]
    read = [_reads(reader) for reader in readers]
    return any(read)


TARGETS: dict[str, Callable[[bytes, Path], bool]] = {
    "archive": archive,
    "image": image,
    "model": model,
    "recipe": recipe,
    "csv": csv,
}


def seeds(target: str) -> list[Path]:
    """Files of a target's seed corpus."""
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())


def _inspected(content: bytes, folder: Path) -> bool:
    path = folder / "archive"
    path.write_bytes(content)
    try:
        with open_archive(path) as opened:
            dataset = scan(opened)
            dataset.to_csv().encode()
            letters = [picture for picture in dataset.pictures if is_letter(picture.label) and not picture.problem]
            measured = looks.measure(opened, letters, memory=folder / "memory")
            json.dumps(asdict(inspection.inspect(dataset, measured)))
            dataset.letters()
    except FingerspellError:
        return False
    return True


def _reads(reader: Callable[[], object]) -> bool:
    try:
        reader()
    except FingerspellError:
        return False
    return True
