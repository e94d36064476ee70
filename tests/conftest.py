"""What every test stands on: a cache of its own, no network, and the shared folder if it is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import encode, write_zip

# Before anything imports the hub's client: tests never reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = Path(__file__).parents[1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests measured (``record_property``)."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def fake_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graph of the fake backbone: torch's exporter takes seconds, which every run on an empty cache would spend."""
    from fingerspell.graphs import backbone_graph
    from fingerspell.testing import fake_backbone

    return backbone_graph(fake_backbone(), tmp_path_factory.mktemp("graphs"))


def cache_with(graph: Path, folder: Path) -> Path:
    """Cache in a folder, with nothing in it but a graph."""
    (folder / "graphs").mkdir(parents=True)
    shutil.copy(graph, folder / "graphs")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, fake_graph: Path) -> Path:
    folder = cache_with(fake_graph, tmp_path_factory.mktemp("cache") / "cache")
    monkeypatch.setenv("FINGERSPELL_CACHE", str(folder))
    return folder


@pytest.fixture
def shared() -> Path:
    folder = Path(os.environ.get("FINGERSPELL_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data" / "asl_real.zip").exists():
        pytest.skip(f"SHARED FOLDER MISSING: {folder} holds no data/asl_real.zip; set FINGERSPELL_SHARED")
    return folder


def noisy_picture(letter: str, number: int, size: int = 20) -> bytes:
    """Picture of a letter for the fake backbone: a colour pattern of its own, and noise."""
    pattern = np.random.default_rng(ord(letter)).integers(40, 216, (4, 4, 3))
    noise = np.random.default_rng([ord(letter), number]).integers(-40, 41, (size, size, 3))
    pixels = np.kron(pattern, np.ones((size // 4, size // 4, 1))) + noise
    return encode(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "PNG")


@pytest.fixture(scope="session")
def letters_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Film-like set: 40 numbered pictures of each of A, B, C, J and U, and folders that are no letters."""
    files = {
        f"set/{letter}/{letter}{number}.png": noisy_picture(letter, number)
        for letter in "ABCJU"
        for number in range(40)
    }
    files |= {f"set/nothing/nothing{number}.png": noisy_picture("?", number) for number in range(3)}
    return write_zip(tmp_path_factory.mktemp("letters") / "letters.zip", files)
