from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fingerspell import cache, images
from fingerspell.archive import Archive, open_archive
from fingerspell.dataset import Picture, scan
from fingerspell.errors import CacheError, DatasetError
from fingerspell.features import FeatureStore, extract, open_store
from fingerspell.testing import fake_engine


def good_pictures(archive: Archive) -> tuple[Picture, ...]:
    return scan(archive).letters()


def test_features_are_those_of_the_backbone_in_every_view(letters_zip: Path, tmp_path: Path) -> None:
    engine = fake_engine()
    with open_archive(letters_zip) as archive, open_store(tmp_path, engine) as store:
        pictures = good_pictures(archive)
        extract(archive, pictures, engine, store)
        vectors = store.load(pictures, images.VIEWS)
        pixels = [images.resize(images.decode(archive.read(p.id)).pixels, 16, "nearest") for p in pictures]
    for column, batch in enumerate((np.stack(pixels), np.stack(pixels)[:, :, ::-1])):
        with torch.inference_mode():
            expected = engine.backbone.network(torch.from_numpy(batch.copy())).numpy()
        np.testing.assert_allclose(vectors[:, column], expected, atol=1e-5)


def test_second_extraction_reads_no_picture_and_calls_no_network(
    letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fake_engine()
    with open_archive(letters_zip) as archive, open_store(tmp_path, engine) as store:
        pictures = good_pictures(archive)
        first = extract(archive, pictures, engine, store)
        monkeypatch.setattr(archive, "read", lambda name: pytest.fail(f"{name} was read"))
        monkeypatch.setattr(engine.backbone.network, "forward", lambda _: pytest.fail("the network was called"))
        second = extract(archive, pictures[::-1], engine, store)
    assert astuple(first) == (200, 7, 400, 0)  # pictures, calls of 64 views, vectors computed and remembered
    assert astuple(second) == (0, 0, 0, 400)


def test_only_the_absent_views_are_computed(letters_zip: Path, tmp_path: Path) -> None:
    engine = fake_engine()
    with open_archive(letters_zip) as archive, open_store(tmp_path, engine) as store:
        pictures = good_pictures(archive)
        assert extract(archive, pictures, engine, store, views=("original",)).vectors_computed == len(pictures)
        assert extract(archive, pictures, engine, store).vectors_computed == len(pictures)


def test_equal_contents_are_computed_once(letters_zip: Path, tmp_path: Path) -> None:
    engine = fake_engine()
    with open_archive(letters_zip) as archive, open_store(tmp_path, engine) as store:
        picture = good_pictures(archive)[0]
        twins = [picture, replace(picture, label="B")]
        assert extract(archive, twins, engine, store, views=("original",)).vectors_computed == 1
        vectors = store.load(twins, ("original",))
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_vectors_do_not_depend_on_their_neighbours_in_the_batch(letters_zip: Path, tmp_path: Path) -> None:
    engine = fake_engine()
    with open_archive(letters_zip) as archive:
        pictures = good_pictures(archive)
        with open_store(tmp_path / "all", engine) as store:
            extract(archive, pictures, engine, store)
            whole = store.load(pictures[:3], images.VIEWS)
        with open_store(tmp_path / "few", engine) as store:
            extract(archive, pictures[:3], engine, store)
            np.testing.assert_array_equal(store.load(pictures[:3], images.VIEWS), whole)


def test_network_always_sees_full_batches(letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine()
    shapes: list[tuple[int, ...]] = []
    forward = engine.backbone.network.forward

    def spy(batch: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(batch.shape))
        return forward(batch)

    monkeypatch.setattr(engine.backbone.network, "forward", spy)
    with open_archive(letters_zip) as archive, open_store(tmp_path, engine) as store:
        extract(archive, good_pictures(archive), engine, store, views=("original",))
    assert shapes == [(engine.batch, 16, 16, 3)] * 4  # 200 pictures


def test_changed_picture_is_noticed(letters_zip: Path, tmp_path: Path) -> None:
    engine = fake_engine()
    with open_archive(letters_zip) as archive, open_store(tmp_path, engine) as store:
        picture = replace(good_pictures(archive)[0], sha256="0" * 64)
        with pytest.raises(DatasetError, match="changed while the archive was being read"):
            extract(archive, [picture], engine, store)


def test_loading_what_is_not_there_is_an_error(letters_zip: Path, tmp_path: Path) -> None:
    with open_archive(letters_zip) as archive, open_store(tmp_path, fake_engine()) as store:
        with pytest.raises(CacheError, match="200 of 200 vectors of the original view are not there"):
            store.load(good_pictures(archive), images.VIEWS)


def test_damaged_cache_file_says_what_to_do(tmp_path: Path) -> None:
    with open_store(tmp_path, fake_engine()) as store:
        path = store.path
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(CacheError, match=r"cannot be used .*delete this file"):
        FeatureStore(tmp_path, fake_engine())


WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from types import SimpleNamespace
    import numpy as np
    from fingerspell.features import open_store

    folder, start = Path(sys.argv[1]), int(sys.argv[2])
    engine = SimpleNamespace(title="fake", identity=sys.argv[4], dimension=24, hands=None)
    with open_store(folder, engine) as store:
        print("ready", flush=True)
        for number in range(start, start + int(sys.argv[3])):
            store.add([(f"{number:064x}", "original")], np.full((1, 24), number, np.float32))
    """
)


def start_writer(folder: Path, start: int, count: int) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(start), str(count), fake_engine().identity]
    process = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


def stored_numbers(folder: Path, numbers: range) -> list[int]:
    """Numbers whose vectors are there, each checked to be whole."""
    there = []
    with open_store(folder, fake_engine()) as store:
        pictures = [Picture(str(n), "A", sha256=f"{n:064x}") for n in numbers]
        absent = {picture.id for picture, _ in store.missing(pictures, ("original",))}
        there = [picture for picture in pictures if picture.id not in absent]
        vectors = store.load(there, ("original",))
    for picture, vector in zip(there, vectors[:, 0], strict=True):
        assert (vector == int(picture.id)).all()
    return [int(picture.id) for picture in there]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_kill_9_leaves_the_cache_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    for round_ in range(3):
        process = start_writer(tmp_path, round_ * 10**6, 10**6)
        time.sleep(float(rng.uniform(0.02, 0.3)))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        there = stored_numbers(tmp_path, range(round_ * 10**6, round_ * 10**6 + 100_000))
        assert there == list(range(round_ * 10**6, round_ * 10**6 + len(there)))  # what came first is there, no gap


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, 0, 300), start_writer(tmp_path, 200, 300)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert stored_numbers(tmp_path, range(500)) == list(range(500))


def test_four_processes_make_one_new_cache_file(tmp_path: Path) -> None:
    for round_ in range(3):
        folder = tmp_path / str(round_)
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(start), "5", fake_engine().identity])
            for start in (0, 5, 10, 15)
        ]
        assert [writer.wait() for writer in writers] == [0] * 4
        assert stored_numbers(folder, range(20)) == list(range(20))


def test_vector_of_a_wrong_length_counts_as_damaged(letters_zip: Path, tmp_path: Path) -> None:
    with open_archive(letters_zip) as archive, open_store(tmp_path, fake_engine()) as store:
        pictures = good_pictures(archive)[:2]
        store.add([(p.sha256, "original") for p in pictures], np.zeros((2, 7), np.float32))
        with pytest.raises(CacheError, match="2 of 2 vectors of the original view are not there or damaged"):
            store.load(pictures, ("original",))


def test_cache_is_listed_and_cleared(letters_zip: Path, own_cache: Path) -> None:
    engine = fake_engine()
    with open_archive(letters_zip) as archive, open_store(cache.features_folder(), engine) as store:
        pictures = scan(archive, memory=cache.scans_folder()).letters()
        extract(archive, pictures, engine, store)
    (own_cache / "mine.txt").write_text("not the cache's")
    (cache.scans_folder() / ".x.json.abc.partial").write_text("left by a kill")
    listed = cache.entries()
    assert [entry.kind for entry in listed] == ["features", "graphs", "scans"]
    assert cache.clear() == sum(entry.size for entry in listed) > 400 * 24 * 4
    assert cache.entries() == []
    assert list(cache.scans_folder().iterdir()) == []
    assert (own_cache / "mine.txt").exists()


def test_cache_folder_without_the_variable_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINGERSPELL_CACHE")
    assert cache.cache_folder().name == "fingerspell"
