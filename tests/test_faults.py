"""Everything that can go wrong around a run, tried: damaged files, full disks, two runs at once, kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from errno import ENOSPC, EROFS
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import cache_with
from fingerspell import cli, runs
from fingerspell.archive import open_archive
from fingerspell.dataset import Dataset, scan
from fingerspell.errors import CacheError, ModelError, RecipeError
from fingerspell.features import FeatureStore, extract, open_store
from fingerspell.files import is_temporary
from fingerspell.images import VIEWS, decode
from fingerspell.model import load_model
from fingerspell.recipes import load_recipe, override
from fingerspell.rendering import render_dataset
from fingerspell.reporting import write_report
from fingerspell.testing import fake_backbone, fake_engine
from fuzz.targets import TARGETS, seeds

SMALL = {"features.engine": "torch", "split.test_per_class": 10, "split.sample": 60, "head.mlp.epochs": 2}
OPTIONS = ["--test-per-class", "10", "--sample", "60", "--epochs", "2"]
MODEL_FILES = ["model.json", "model.onnx", "head.safetensors", "SHA256SUMS"]
NOT_COMPARED = {"timing.json", "report.html"}  # they tell seconds


@pytest.fixture(autouse=True)
def quick_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: fake_backbone())


@pytest.fixture(scope="module")
def trained(letters_zip: Path, fake_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a finished run, and in ``cache`` what it remembered."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fingerspell.backbones.load_backbone", lambda _name, **_: fake_backbone())
        patch.setenv("FINGERSPELL_CACHE", str(cache_with(fake_graph, folder / "cache")))
        runs.train(letters_zip, overrides=SMALL, out=folder / "run")
    return folder


def program(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit status of ``fingerspell ARGUMENTS``; what is no message of ours comes through."""
    monkeypatch.setattr(sys, "argv", ["fingerspell", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    """What a stage left, but for the seconds that it took and what a kill left behind."""
    files = [path for path in folder.rglob("*") if path.is_file() and not is_temporary(path)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name not in NOT_COMPARED}


# -- readers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_no_seed_of_the_fuzzer_raises_anything_but_our_own_errors(target: str, tmp_path: Path) -> None:
    for number, seed in enumerate(seeds(target)):
        folder = tmp_path / str(number)
        folder.mkdir()
        TARGETS[target](seed.read_bytes(), folder)


changes = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6)
WHOLE = ["archive/packed.zip", "archive/stored.zip", "archive/plain.tar", "archive/packed.tar.gz"]
WHOLE += ["image/hand.jpg", "image/progressive.jpg", "image/hand.png", "image/hand.gif", "image/packed.tif"]
WHOLE += ["model/whole", "recipe/small.toml", "csv/groups.csv", "csv/boxes.csv"]


@pytest.mark.parametrize("name", WHOLE)
def test_any_bytes_changed_and_any_cut_raise_our_own_errors_alone(name: str) -> None:
    target, _, file = name.partition("/")
    (whole,) = (seed.read_bytes() for seed in seeds(target) if seed.name == file)

    @settings(max_examples=60, deadline=None, database=None)
    @given(changes, st.integers(0, len(whole)))
    def damaged(edits: list[tuple[int, int]], lost: int) -> None:
        data = bytearray(whole)
        for place, value in edits:
            data[place % len(data)] = value
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[target](bytes(data), Path(folder))
            if lost < len(whole):
                TARGETS[target](bytes(data[:lost]), Path(folder))

    damaged()


def test_one_byte_changed_anywhere_in_a_model_folder_is_refused_or_changes_no_answer(
    trained: Path, letters_zip: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    with open_archive(letters_zip) as archive:
        picture = archive.read("set/A/A0.png")
    expected = load_model(trained / "run").predict(picture)
    folder = shutil.copytree(trained / "run" / "model", tmp_path / "model")
    for name in MODEL_FILES:
        whole = (folder / name).read_bytes()
        refused = 0
        for place in rng.choice(len(whole), 20, replace=False):
            data = bytearray(whole)
            data[place] ^= int(rng.integers(1, 256))
            (folder / name).write_bytes(data)
            try:
                assert load_model(folder).predict(picture) == expected
            except ModelError:
                refused += 1
        assert refused == 20 or name == "SHA256SUMS"  # a line of which is that of README.md, which no program reads
        assert refused
        (folder / name).write_bytes(whole)
    assert load_model(folder).predict(picture) == expected


def test_recipe_of_a_newer_version_is_refused_by_the_name_that_is_new(tmp_path: Path) -> None:
    path = tmp_path / "newer.toml"
    for text, message in (
        ("future = true", r"newer.toml: future is unknown; expected one of name, seed, split"),
        ("[split]\nprotocol = 'by-moonlight'", r"newer.toml: split.protocol = 'by-moonlight'"),
        ("[head.mlp]\ndropout = 0.5", r"newer.toml: head.mlp.dropout is unknown; expected one of hidden, epochs"),
        ("[features]\nengine = 'quantum'", r"newer.toml: features.engine = 'quantum'"),
    ):
        path.write_text(f"name = 'newer'\n{text}\n")
        with pytest.raises(RecipeError, match=message):
            load_recipe(str(path))
    with pytest.raises(RecipeError, match=r"split\.moon is unknown"):
        override(load_recipe("real"), {"split.moon": 1})


def test_seed_beyond_what_torch_takes_is_refused() -> None:
    assert override(load_recipe("real"), {"seed": 2**64 - 1}).seed == 2**64 - 1
    with pytest.raises(RecipeError, match="seed = 18446744073709551616"):
        override(load_recipe("real"), {"seed": 2**64})


def test_model_of_a_newer_version_is_refused_before_its_card_is_read(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained / "run" / "model", tmp_path / "model")
    (folder / "model.json").write_text('{"format": 2, "everything": "is called otherwise"}')
    with pytest.raises(ModelError, match=r"has format 2, this version of fingerspell reads 3, 4, 5"):
        load_model(folder)


def test_fusion_of_before_it_saw_all_looks_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained / "run" / "model", tmp_path / "model")
    (folder / "model.json").write_text('{"format": 4, "head": "fusion"}')
    with pytest.raises(ModelError, match=r"has format 4, this version of fingerspell reads 5\."):
        load_model(folder)


# -- disks and folders ------------------------------------------------------------------------------------------------


def fill_disk(patch: pytest.MonkeyPatch, writes: int) -> None:
    """Let so many files be written; of the next one there is room for a half."""
    left = [writes]
    fdopen = os.fdopen

    class Full:
        """File on a full disk."""

        def __init__(self, handle: int, mode: str) -> None:
            self._file = fdopen(handle, mode)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes) -> None:
            self._file.write(data[: len(data) // 2])
            raise OSError(ENOSPC, os.strerror(ENOSPC))

    def opened(handle: int, mode: str) -> Any:
        left[0] -= 1
        return fdopen(handle, mode) if left[0] >= 0 else Full(handle, mode)

    patch.setattr("fingerspell.files.os.fdopen", opened)


def assert_whole(folder: Path) -> None:
    """Every file that is there is whole, whatever happened to who wrote it."""
    readers: dict[str, Callable[[bytes], object]] = {
        ".png": decode,
        ".json": json.loads,
        ".toml": lambda data: tomllib.loads(data.decode()),
        ".html": lambda data: data.rstrip().endswith(b"</html>") or pytest.fail("cut"),
        ".csv": lambda data: data.endswith(b"\n") or pytest.fail("cut"),
    }
    for path in folder.rglob("*"):
        if path.is_file() and not is_temporary(path):
            readers.get(path.suffix, len)(path.read_bytes())
        if path.suffix == ".sqlite":
            database = sqlite3.connect(path)
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            database.close()
    for sums in folder.rglob("SHA256SUMS"):  # the last that is written of a model
        for line in sums.read_text().splitlines():
            digest, name = line.split()
            assert hashlib.sha256((sums.parent / name).read_bytes()).hexdigest() == digest


# What a run writes: the scan (0), recipe and split, the history (3), five files of the model, four of results (9),
# four or five figures and the report.
def test_disk_full_at_any_file_ends_with_a_message_and_the_next_run_ends_right(
    trained: Path,
    letters_zip: Path,
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, recipe = tmp_path / "run", tmp_path / "recipe.toml"
    shutil.copy(trained / "run" / "recipe.toml", recipe)
    shutil.copytree(trained / "cache" / "graphs", own_cache / "graphs", dirs_exist_ok=True)
    for writes in (0, 1, 3, 6, 9):
        with monkeypatch.context() as patch:
            fill_disk(patch, writes)
            assert program(patch, "train", letters_zip, "--recipe", recipe, "--out", out) == 1
        assert f"Error: [Errno {ENOSPC}]" in (told := capsys.readouterr().err) or os.strerror(ENOSPC) in told
        assert not (out / "report.html").exists()
        assert not [path for path in tmp_path.rglob("*") if is_temporary(path)]
        assert_whole(tmp_path)
    runs.train(letters_zip, recipe=str(recipe), out=out)
    assert contents(out) == contents(trained / "run")


def test_disk_full_at_the_report_leaves_an_unfinished_run(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run", ignore=shutil.ignore_patterns("report.html", "figures"))
    fill_disk(monkeypatch, 2)  # of the figures
    with pytest.raises(OSError, match=os.strerror(ENOSPC)):
        write_report(run)
    assert len(list((run / "figures").iterdir())) == 2
    assert not (run / "report.html").exists()
    assert_whole(run)


def test_disk_full_in_the_feature_store_keeps_what_was_computed(
    letters_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small_disk(store: FeatureStore, identity: str) -> None:
        set_up(store, identity)
        store._database.execute("PRAGMA max_page_count = 12")  # SQLite's own way to be out of room

    engine = fake_engine()
    set_up = FeatureStore._set_up
    with open_archive(letters_zip) as archive:
        pictures = scan(archive).letters()
        with monkeypatch.context() as patch:
            patch.setattr(FeatureStore, "_set_up", small_disk)
            with open_store(tmp_path / "full", engine) as store:
                with pytest.raises(CacheError, match=r"full.*Free disk space"):
                    extract(archive, pictures, engine, store)
        assert_whole(tmp_path)
        with open_store(tmp_path / "full", engine) as store, open_store(tmp_path / "other", engine) as other:
            again = extract(archive, pictures, engine, store)
            extract(archive, pictures, engine, other)
            assert again.vectors_remembered > 0
            np.testing.assert_array_equal(store.load(pictures, VIEWS), other.load(pictures, VIEWS))


@pytest.mark.parametrize("part", ["", "scans", "features", "graphs"])
def test_cache_that_cannot_be_written_is_named_with_the_way_out(
    part: str,
    letters_zip: Path,
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(own_cache)
    blocked = own_cache / part
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file, where a folder belongs")  # permissions would not stop the super-user
    assert program(monkeypatch, "train", letters_zip, *OPTIONS, "--out", tmp_path / "run") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "point FINGERSPELL_CACHE at another folder" in told
    assert blocked.read_text() == "a file, where a folder belongs"
    assert not (tmp_path / "run" / "report.html").exists()


def test_cache_on_a_read_only_disk_is_named_with_the_way_out(
    letters_zip: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def read_only(path: Path, *arguments: Any, **options: Any) -> None:
        if own_cache in path.parents:
            raise OSError(EROFS, os.strerror(EROFS), str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", read_only)
    with open_archive(letters_zip) as archive, pytest.raises(CacheError, match="FINGERSPELL_CACHE"):
        scan(archive, memory=own_cache / "scans")
    with pytest.raises(CacheError, match="FINGERSPELL_CACHE"):
        open_store(own_cache / "features", fake_engine())


# -- kill -9, and two at once: a process that has imported everything forks the ones that work -----------------------


class Stages:
    """Work that can be begun again at any moment: each one with the folder that it fills."""

    def __init__(self, scratch: Path, archive: Path) -> None:
        self.scratch, self.archive = scratch, archive
        with open_archive(archive) as opened:
            self.dataset: Dataset = scan(opened)

    def train(self, folder: Path) -> None:
        """A whole run, in a cache of its own."""
        os.environ["FINGERSPELL_CACHE"] = str(folder / "cache")
        shutil.copytree(self.scratch / "graphs", folder / "cache" / "graphs", dirs_exist_ok=True)
        runs.train(self.archive, overrides=SMALL, out=folder / "run", overwrite=True)

    def extract(self, folder: Path) -> None:
        """Features of every picture, and their vectors as a file."""
        engine = fake_engine()
        forward = engine.backbone.network.forward

        def slow(pictures: Any) -> Any:
            time.sleep(0.03)
            return forward(pictures)

        engine.backbone.network.forward = slow  # type: ignore[method-assign]
        pictures = self.dataset.letters()
        with open_archive(self.archive) as archive, open_store(folder / "cache", engine) as store:
            extract(archive, pictures, engine, store)
            vectors = store.load(pictures, VIEWS)
        (folder / "vectors.bin").write_bytes(vectors.tobytes())

    def render(self, folder: Path) -> None:
        """A few dozen drawn hands and their boxes."""
        render_dataset(folder / "hands", train_per_letter=1, test_per_letter=0, size=48)

    def report(self, folder: Path) -> None:
        """Figures and page of a finished run."""
        if not (folder / "run").exists():
            shutil.copytree(self.scratch / "whole train" / "run", folder / "run.copy")
            (folder / "run.copy" / "report.html").unlink()
            shutil.rmtree(folder / "run.copy" / "figures")
            (folder / "run.copy").rename(folder / "run")
        write_report(folder / "run")


def fork(work: Callable[[Path], None], folder: Path) -> int:
    """Begin in a process of its own; its exit status is 0 if it comes to the end."""
    folder.mkdir(exist_ok=True)
    if child := os.fork():
        return child
    try:
        work(folder)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nothing of the parent may run on in here
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def finish(child: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def kill_at_random(work: Callable[[Path], None], folder: Path, seconds: float, times: int, seed: int) -> None:
    """Kill the work at random moments, so many times, and look at what it left; begun again, it goes on."""
    rng = np.random.default_rng(seed)
    kills = 0
    while kills < times:
        child = fork(work, folder)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)  # a child that came to its end waits until it is asked
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        kills += killed
        assert_whole(folder)
        if not killed:
            shutil.rmtree(folder)


def results(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not name.startswith("cache")}


def be_killed(scratch: Path, archive: Path) -> None:
    """Kill train, extract, render and report, five times each: in the end they leave what the unkilled leave."""
    stages = Stages(scratch, archive)
    for number, name in enumerate(("train", "extract", "render", "report")):
        work = getattr(stages, name)
        whole, killed = scratch / f"whole {name}", scratch / f"killed {name}"
        start = time.monotonic()
        finish(fork(work, whole))
        seconds = time.monotonic() - start
        kill_at_random(work, killed, seconds, 5, number)
        finish(fork(work, killed))
        assert results(killed) == results(whole)
        assert results(whole)
        if name == "report":
            assert (killed / "run" / "report.html").read_bytes() == (whole / "run" / "report.html").read_bytes()
        print(name, "killed", 5, flush=True)  # noqa: T201 - to the process that began this one


def run_two_at_once(scratch: Path, archive: Path) -> None:
    """Two runs begun together on one empty cache."""

    shutil.copytree(scratch / "graphs", scratch / "one cache" / "graphs")

    def train(folder: Path) -> None:
        os.environ["FINGERSPELL_CACHE"] = str(scratch / "one cache")
        runs.train(archive, overrides=SMALL, out=folder / "run")

    for child in [fork(train, scratch / name) for name in ("one", "other")]:
        finish(child)
    assert results(scratch / "one") == results(scratch / "other")
    assert_whole(scratch)


PREPARED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # threads do not live through a fork
import fingerspell.backbones, fingerspell.exporting, fingerspell.precision, fingerspell.training
import test_faults
fingerspell.backbones.load_backbone = lambda name, **options: test_faults.fake_backbone()
getattr(test_faults, sys.argv[1])(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def in_prepared_process(function: Callable[[Path, Path], None], scratch: Path, archive: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PREPARED, function.__name__, str(scratch), str(archive)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
def test_killed_at_twenty_random_moments_everything_is_whole_and_ends_as_if_never_killed(
    trained: Path, letters_zip: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "cache" / "graphs", tmp_path / "graphs")  # torch's exporter takes seconds
    told = in_prepared_process(be_killed, tmp_path, letters_zip)
    assert told.split("\n")[:-1] == [f"{name} killed 5" for name in ("train", "extract", "render", "report")]


@needs_fork
def test_two_runs_at_once_on_one_cache_give_the_same_files(trained: Path, letters_zip: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "cache" / "graphs", tmp_path / "graphs")
    in_prepared_process(run_two_at_once, tmp_path, letters_zip)
